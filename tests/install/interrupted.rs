//! `install.sh`, interrupted at each of its steps: a second run and a removal must work, and no unfinished file may remain.

#![expect(clippy::disallowed_methods, reason = "runs the script")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use crate::sandbox;

/// Two small releases, `old` and `new`, with the files that the script expects, and a host with libvirt and AppArmor. /run/bin has
/// the commands that change files: the one whose turn it is fails, or ends the whole process group by a signal.
const HOST: &str = r#"set -e
mkdir -p /run/bin /run/tmp /run/old/docs /run/old/examples /etc/libvirt/hooks /etc/apparmor.d/abstractions /etc/apparmor.d/local/abstractions
echo '#include <local/abstractions/libvirt-qemu>' >/etc/apparmor.d/abstractions/libvirt-qemu
echo '# mine' >/etc/apparmor.d/local/abstractions/libvirt-qemu
cp -r install.sh hooks README.md CHANGELOG.md SECURITY.md /run/old
mkdir /run/old/man /run/old/completions
for file in man/viommu.8 man/viommu.toml.5 completions/viommu.bash completions/_viommu completions/viommu.fish docs/old.md; do
    echo old >/run/old/$file
done
printf '\177ELF urn:libvirt-viommu:1 old' >/run/old/binary
chmod 755 /run/old/binary
cp -r /run/old /run/new
rm /run/new/docs/old.md
mkdir /run/new/docs/more
for file in binary man/viommu.8 docs/more/new.md; do echo new >>/run/new/$file; done
for tool in cp install ln mkdir mktemp mv rm rmdir; do
    cat >/run/bin/$tool <<TOOL
#!/bin/sh
read -r count </run/count
echo \$((count + 1)) >/run/count
if [ \$count = "\$TURN" ]; then
    # What a full disk leaves.
    case $tool in install | cp) for last; do :; done; [ -d "\$last" ] || : >"\$last" ;; esac
    case \$HOW in fail) exit 1 ;; *) kill -\$HOW 0; exec sleep 5 ;; esac
fi
exec $(command -v $tool) "\$@"
TOOL
    chmod 755 /run/bin/$tool
done"#;

const PREFIX: &str = "/run/prefix";
/// The script's record of what it installed.
const MANIFEST: &str = "/run/prefix/lib/libvirt-viommu/installed";

fn sh(script: &str) -> Output {
    Command::new("sh").args(["-c", script]).output().unwrap()
}

#[track_caller]
fn done(script: &str) -> String {
    let output = sh(script);
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the script of a release, interrupted at a turn; `None` where it has no such turn.
fn interrupted(release: &str, options: &str, turn: u32, how: &str) -> Option<Output> {
    fs::write("/run/count", "0\n").unwrap();
    // A test program in the background of a shell ignores INT, and a shell cannot trap a signal that it ignored from the start.
    let mut command = Command::new("env");
    command.args(["--default-signal", "sh", "-c", &command_line(release, options)]).process_group(0);
    command.env("PATH", format!("/run/bin:{}", std::env::var("PATH").unwrap()));
    let output = command.env("TMPDIR", "/run/tmp").env("TURN", turn.to_string()).env("HOW", how).output().unwrap();
    let turns: u32 = fs::read_to_string("/run/count").unwrap().trim().parse().unwrap();
    (turns > turn).then_some(output)
}

fn command_line(release: &str, options: &str) -> String {
    format!(
        "cd /run/{release} && VIOMMU_BINARY=/run/{release}/binary ./install.sh --no-reload --prefix {PREFIX} {options}"
    )
}

#[track_caller]
fn run(release: &str, options: &str) {
    done(&command_line(release, options));
}

/// All files below the prefix and in /etc, with their content.
fn files() -> String {
    done(&format!(
        "set -e; cd /; for place in etc {PREFIX}; do [ ! -e $place ] || find $place -printf '%y %m %l %p\\n' | sort; done
         for place in etc {PREFIX}; do [ ! -e $place ] || find $place -type f -print0 | sort -z | xargs -0 sha256sum; done"
    ))
}

/// The state of the host, to be brought back.
fn save(name: &str) -> String {
    done(&format!(
        "mkdir /run/{name}; cp -a /etc /run/{name}; if [ -e {PREFIX} ]; then cp -a {PREFIX} /run/{name}; fi"
    ));
    files()
}

fn bring_back(name: &str) {
    done(&format!(
        "rm -rf /etc/* {PREFIX}; cp -a /run/{name}/etc/. /etc; if [ -e /run/{name}/prefix ]; then cp -a /run/{name}/prefix /run; fi"
    ));
}

#[track_caller]
fn nothing_unfinished(what: &str) {
    assert_eq!(done(&format!("find /etc {PREFIX} -name '*.new' 2>/dev/null || :")), "", "{what}");
}

#[test]
fn an_interrupted_installation_can_be_repeated_and_removed() {
    if !sandbox::inside("interrupted::an_interrupted_installation_can_be_repeated_and_removed") {
        return;
    }
    done(HOST);
    let main_hook = "--hook /etc/libvirt/hooks/qemu";
    let before = save("nothing");
    run("old", main_hook);
    save("installed");
    // A first installation, and an upgrade. libvirt's hook is a copy of the binary, which has a step of its own.
    for (start, options) in [("nothing", main_hook), ("installed", "")] {
        bring_back(start);
        run("new", options);
        let complete = files();
        for turn in 0.. {
            bring_back(start);
            if interrupted("new", options, turn, "fail").is_none() {
                break;
            }
            let what = format!("step {turn} on {start}");
            nothing_unfinished(&what);
            run("new", "--uninstall");
            assert_eq!(files(), before, "{what} fails, then the removal");

            bring_back(start);
            let signal = ["INT", "TERM", "KILL"][turn as usize % 3];
            interrupted("new", options, turn, signal);
            if signal != "KILL" {
                nothing_unfinished(&format!("{what} {signal}"));
            }
            run("new", options);
            // A killed installation forgets the directories that it made before it wrote the manifest.
            if signal != "KILL" {
                assert_eq!(files(), complete, "{what} {signal}, then a second run");
            }
            nothing_unfinished(&format!("{what} {signal}, then a second run"));
        }
    }
}

/// A guest names a link of the host route, which the removal keeps.
#[test]
fn an_interrupted_removal_can_be_repeated() {
    if !sandbox::inside("interrupted::an_interrupted_removal_can_be_repeated") {
        return;
    }
    done(HOST);
    let link = format!("{PREFIX}/lib/libvirt-host-route/qemu-system-x86_64");
    done(&format!("mkdir /etc/libvirt/qemu; echo '<emulator>{link}</emulator>' >/etc/libvirt/qemu/guest.xml"));
    run("old", "");
    save("installed");
    run("old", "--uninstall");
    assert!(done(&format!("readlink {link}")).starts_with("/usr/"));
    let complete = files();
    'turns: for turn in 0.. {
        for how in ["fail", ["INT", "TERM", "KILL"][turn as usize % 3]] {
            bring_back("installed");
            let Some(output) = interrupted("old", "--uninstall", turn, how) else { break 'turns };
            // A host without room keeps its line of AppArmor's, and viommu goes.
            if output.status.success() {
                let printed = String::from_utf8_lossy(&output.stderr).into_owned();
                let named = printed.contains("apparmor.d/local/abstractions/libvirt-qemu cannot be written");
                assert!(named, "step {turn}: {printed}");
                continue;
            }
            let last = !fs::exists(MANIFEST).unwrap();
            run("old", "--uninstall");
            // The manifest's directory is removed after it.
            let own = |line: &&str| !last || !line.ends_with("/libvirt-viommu");
            let left = files();
            let left: Vec<_> = left.lines().filter(own).collect();
            assert_eq!(left, complete.lines().collect::<Vec<_>>(), "step {turn}, {how}");
        }
    }
}
