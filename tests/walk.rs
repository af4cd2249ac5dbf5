//! A new user's steps to the first guest: README.md and docs/guides/first-guest.md, which `tests/lab/walk.sh` executes
//! on a fresh Debian.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test program that prints its table"
)]

#[path = "support/page.rs"]
mod page;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const PAGE: &str = "docs/proof/first-guest.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// The commands of the guide and the first command of the README, as a table contains them.
fn commands() -> Vec<String> {
    let guide = read("docs/guides/first-guest.md");
    let blocks = guide.split("```sh walk\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let lines = blocks.map(|block| block.split("\\\n").map(|part| part.trim_start_matches(' ')).collect::<String>());
    let text = lines.collect::<String>().replace('|', "\\|");
    let first = "cargo run --release -- plan examples/domains/dpdk-gateway.xml";
    [first].into_iter().chain(text.lines()).map(str::to_owned).collect()
}

fn assert_complete(name: &str, table: &str) {
    let commands = commands();
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        assert!(table.contains(&format!(" | `{command}` | ")), "{name}: no row of: {command}\n{table}");
    }
}

fn minutes(table: &str) -> u32 {
    let seconds = table.lines().filter_map(|row| row.strip_prefix("| ")?.split(' ').next()?.parse::<u32>().ok());
    seconds.sum::<u32>().div_ceil(60)
}

fn walk(suite: &str, name: &str) {
    let script: PathBuf = root().join("tests/lab/walk.sh");
    let output = Command::new(script).arg(suite).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    println!("{name}\n\n{table}");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    assert_complete(name, &table);
    if env::var_os("VIOMMU_REGENERATE").is_some() {
        let text =
            format!("\n## {name}: {} commands, {} minutes\n\n{table}\n", table.lines().count() - 2, minutes(&table));
        page::check("proof/first-guest.md", &format!("walk -- --ignored {suite}"), &text);
    }
}

/// A new command in the guide needs a new walk.
#[test]
fn every_table_of_the_page_has_the_commands_of_the_guide() {
    let page = read(PAGE);
    let tables: Vec<&str> = page.split("\n## Debian ").skip(1).collect();
    assert!(!tables.is_empty(), "{PAGE}");
    for table in tables {
        assert_complete(PAGE, table.split("\n## ").next().unwrap());
    }
}

#[test]
#[ignore = "installs packages, compiles and boots, about 10 minutes: cargo test --test walk -- --ignored --nocapture bookworm"]
fn the_first_guest_guide_works_on_bookworm() {
    walk("bookworm", "Debian 12");
}

#[test]
#[ignore = "the same: cargo test --test walk -- --ignored --nocapture trixie"]
fn the_first_guest_guide_works_on_trixie() {
    walk("trixie", "Debian 13");
}

#[test]
#[ignore = "the same: cargo test --test walk -- --ignored --nocapture sid"]
fn the_first_guest_guide_works_on_sid() {
    walk("sid", "Debian unstable");
}
