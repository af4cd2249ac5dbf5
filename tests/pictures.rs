//! Pictures of the program's output on a terminal. The test renders real output, so the pictures cannot be out of date.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "tests do I/O")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic fails the test")]

#[path = "support/page.rs"]
mod page;

use std::fmt::Write as _;
use std::process::Command;

/// The width of a hundred characters in units of the picture, for a monospaced font of 14.
const CHARACTERS: usize = 843;
const LINE: usize = 19;
const MARGIN: usize = 18;
/// The top of the text, below the window's title.
const TOP: usize = 52;

/// Text of one colour.
struct Span {
    class: &'static str,
    text: String,
}

/// The output of a command that a shell runs on a terminal, with its colours; `None` without the shell or script(1),
/// which creates the terminal.
fn on_a_terminal(shell: &str, columns: usize, command: &str) -> Option<String> {
    // The pictures show a fresh machine; the machine of the test may have a configuration.
    let command = command.replacen("viommu", env!("CARGO_BIN_EXE_viommu"), 1);
    let command = if command.contains(" plan ") { command + " --config /dev/null" } else { command };
    let command = format!("stty rows 40 cols {columns}; {command}");
    let mut script = Command::new("script");
    script.args(["-qec", &format!("{shell} -c '{command}'"), "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    if ["script", shell].iter().any(|tool| Command::new(tool).arg("--version").output().is_err()) {
        println!("SKIPPED: script(1) or {shell} is not installed");
        return None;
    }
    let output = script.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n");
    assert!(output.status.success(), "{command}: {text}");
    Some(text)
}

/// The class of a colour: the text between `ESC [` and `m`.
fn class(code: &str) -> &'static str {
    match code {
        "0" => "",
        "1" => "b",
        "31" => "r",
        "32" => "g",
        "33" => "y",
        "36" => "c",
        other => panic!("unknown colour {other}"),
    }
}

/// The colours of a line of output, which the terminal breaks at its width.
fn rows(line: &str, columns: usize) -> Vec<Vec<Span>> {
    let mut rows = vec![Vec::new()];
    let mut free = columns;
    for (number, part) in line.split("\x1b[").enumerate() {
        let (class, text) = if number == 0 {
            ("", part)
        } else {
            let (code, text) = part.split_once('m').unwrap();
            (class(code), text)
        };
        let mut text: Vec<char> = text.chars().collect();
        while !text.is_empty() {
            if free == 0 {
                rows.push(Vec::new());
                free = columns;
            }
            let rest = text.split_off(free.min(text.len()));
            free -= text.len();
            rows.last_mut().unwrap().push(Span { class, text: text.into_iter().collect() });
            text = rest;
        }
    }
    rows
}

fn picture(command: &str, columns: usize, output: &str) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut text = rows(&format!("$ \x1b[1m{command}\x1b[0m"), columns);
    text.iter_mut().flatten().next().unwrap().class = "p";
    text.extend(output.trim_end().lines().flat_map(|line| rows(line, columns)));
    let width = columns * CHARACTERS / 100 + 2 * MARGIN;
    let height = TOP + text.len() * LINE + MARGIN / 2;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>{}</title>
<style>
text {{ font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #d1d7e0; white-space: pre; }}
.b {{ fill: #ffffff; font-weight: 600; }}
.r {{ fill: #ff7b72; }}
.g {{ fill: #56d364; }}
.y {{ fill: #e3b341; }}
.c {{ fill: #56d4dd; }}
.p {{ fill: #8b949e; }}
</style>
<rect x="0.5" y="0.5" width="{}" height="{}" rx="9" fill="#151b23" stroke="#3d444d"/>
<circle cx="22" cy="20" r="6" fill="#ff5f57"/>
<circle cx="42" cy="20" r="6" fill="#febc2e"/>
<circle cx="62" cy="20" r="6" fill="#28c840"/>
"##,
        escaped(command),
        width - 1,
        height - 1
    );
    for (number, line) in text.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
        write!(svg, r#"<text x="{MARGIN}" y="{}" xml:space="preserve">"#, TOP + number * LINE).unwrap();
        for Span { class, text } in line {
            match *class {
                "" => svg.push_str(&escaped(text)),
                class => write!(svg, r#"<tspan class="{class}">{}</tspan>"#, escaped(text)).unwrap(),
            }
        }
        svg.push_str("</text>\n");
    }
    svg + "</svg>\n"
}

#[test]
fn pictures_show_the_real_output() {
    for (name, command) in [
        ("plan", "viommu plan examples/domains/gpu-workstation.xml --host examples/hosts/workstation.json"),
        ("explain", "viommu explain examples/logs/group-split.log"),
    ] {
        for (columns, path) in
            [(80, format!("docs/pictures/{name}.svg")), (120, format!("docs/pictures/{name}-120.svg"))]
        {
            let Some(output) = on_a_terminal("bash", columns, command) else { return };
            for shell in ["zsh", "fish"] {
                let Some(same) = on_a_terminal(shell, columns, command) else { continue };
                assert_eq!(same, output, "{shell}");
            }
            page::whole(&path, "pictures", &picture(command, columns, &output));
        }
    }
}
