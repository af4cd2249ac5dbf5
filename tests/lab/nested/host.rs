//! The L1 of each suite: the first test that needs it builds and boots it; it stops after the tests.

use std::env;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use super::results::Results;
use super::support::packages::packages;

/// The type of an L1: a distribution release, confined or not. One scenario runs at a time: the scenarios share its
/// NICs.
pub(super) struct Suite {
    name: &'static str,
    libvirt: &'static str,
    qemu: &'static str,
    security: Security,
    arch: Arch,
    host: Mutex<Host>,
}

/// The architecture of L1 and its guests, by `boot.sh`'s name.
#[derive(Clone, Copy)]
enum Arch {
    X86,
    Arm,
}

impl Arch {
    fn name(self) -> &'static str {
        match self {
            Arch::X86 => "x86_64",
            Arch::Arm => "aarch64",
        }
    }

    /// The script that builds L1's disk.
    fn image(self) -> &'static str {
        match self {
            Arch::X86 => "nested/image.sh",
            Arch::Arm => "arm64/image.sh",
        }
    }

    /// The viommu binary for L1.
    fn binary(self) -> Result<String, String> {
        match self {
            Arch::X86 => Ok(env!("CARGO_BIN_EXE_viommu").to_owned()),
            Arch::Arm => {
                let built = Ran::from(lab_command("aarch64.sh", &["build"]).output());
                let path = built.output.lines().last().unwrap_or_default().to_owned();
                if built.status == Some(0) { Ok(path) } else { Err(built.output) }
            }
        }
    }
}

/// The confinement of libvirtd and its guests.
#[derive(Clone, Copy)]
pub(super) enum Security {
    None,
    /// The distribution's configuration, which needs systemd.
    AppArmor,
    /// Enforcing; also needs systemd.
    SeLinux,
}

impl Security {
    /// A part of the instance's name.
    fn name(self) -> &'static str {
        match self {
            Security::None => "plain",
            Security::AppArmor => "apparmor",
            Security::SeLinux => "enforcing",
        }
    }

    /// Time limits from power-on to the first command, as variables of `boot.sh`: four times the measured values.
    fn boot(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Security::None => &[("BOOT_LIMIT", "150")],
            Security::AppArmor => {
                &[("BOOT_LIMIT", "300"), ("INIT", "systemd"), ("CMDLINE", "apparmor=1 security=apparmor")]
            }
            Security::SeLinux => {
                &[("BOOT_LIMIT", "300"), ("INIT", "systemd"), ("CMDLINE", "security=selinux selinux=1 enforcing=1")]
            }
        }
    }

    /// The duration of `prepare.sh` on two busy cores, seconds.
    fn prepare_seconds(self) -> u64 {
        match self {
            Security::None => 12,
            Security::AppArmor => 20,
            // The load of a policy module takes longer than all other steps.
            Security::SeLinux => 60,
        }
    }
}

enum Host {
    Unbooted,
    Up(String),
    Skipped,
    Broken(String),
}

impl Suite {
    pub(super) const fn bookworm(security: Security) -> Self {
        Self::new("bookworm", "9.0.", "7.2.", security, Arch::X86)
    }

    pub(super) const fn trixie(security: Security) -> Self {
        Self::new("trixie", "11.3.", "10.0.", security, Arch::X86)
    }

    pub(super) const fn trixie_with_selinux() -> Self {
        Self::new("trixie-selinux", "11.3.", "10.0.", Security::SeLinux, Arch::X86)
    }

    pub(super) const fn backports() -> Self {
        Self::new("backports", "12.9.", "11.1.", Security::None, Arch::X86)
    }

    pub(super) const fn trixie_on_aarch64() -> Self {
        Self::new("trixie", "11.3.", "10.0.", Security::None, Arch::Arm)
    }

    const fn new(
        name: &'static str,
        libvirt: &'static str,
        qemu: &'static str,
        security: Security,
        arch: Arch,
    ) -> Self {
        Self { name, libvirt, qemu, security, arch, host: Mutex::new(Host::Unbooted) }
    }

    /// Runs `scenarios/NAME.sh`, which took the given number of seconds; `None` without a lab.
    ///
    /// A run that exceeded its time or lost its L1 is repeated once on a new one, because the machine may have been
    /// busy; a wrong result is not.
    pub(super) fn run(&self, scenario: &str, measured_seconds: u64) -> Option<Results> {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        for last in [false, true] {
            let instance = match self.up(&mut host) {
                Ok(instance) => instance?,
                Err(why) => panic!("no L1 of {}: {why}", self.name),
            };
            let run = lab_command("nested/scenario.sh", &[instance, scenario])
                .env("LIMIT", (4 * measured_seconds).to_string())
                .output();
            let run = Ran::from(run);
            match run.status {
                Some(124 | 125) if !last => {
                    say(&format!(
                        "{}: {scenario} did not come to an end, trying once more:\n{}",
                        self.name, run.output
                    ));
                    *host = Host::Unbooted;
                }
                Some(0) => return Some(Results::parse(&run.output)),
                status => panic!("{}: {scenario} ended with {status:?}:\n{}", self.name, run.output),
            }
        }
        unreachable!("the second try returns or panics")
    }

    /// The name of the running L1, which this function boots if necessary; `None` if there can be no lab.
    fn up<'a>(&self, host: &'a mut Host) -> Result<Option<&'a str>, String> {
        if matches!(host, Host::Unbooted) {
            *host = match missing() {
                Some(why) if env::var_os("VIOMMU_REQUIRE_LAB").is_some_and(|value| value == "1") => Host::Broken(why),
                Some(why) => {
                    say(&format!("SKIPPED: every nested test on {}: {why}", self.name));
                    Host::Skipped
                }
                None => match self.viommu() {
                    Ok(Some(viommu)) => match self.boot(&viommu).or_else(|why| {
                        say(&format!("{}: L1 did not boot, trying once more: {why}", self.name));
                        self.boot(&viommu)
                    }) {
                        Ok(instance) => Host::Up(instance),
                        Err(why) => Host::Broken(why),
                    },
                    Ok(None) => Host::Skipped,
                    Err(why) => Host::Broken(why),
                },
            };
        }
        match host {
            Host::Up(instance) => Ok(Some(instance)),
            Host::Broken(why) => Err(why.clone()),
            Host::Skipped | Host::Unbooted => Ok(None),
        }
    }

    /// viommu for L1: a variable of `boot.sh`, and its value. A confined host gets the package; `None` without the
    /// tools that build it.
    fn viommu(&self) -> Result<Option<(&'static str, String)>, String> {
        match self.security {
            Security::None => self.arch.binary().map(|binary| Some(("VIOMMU_BIN", binary))),
            Security::AppArmor | Security::SeLinux => {
                Ok(packages().map(|built| ("VIOMMU_DEB", built.deb.display().to_string())))
            }
        }
    }

    /// Builds missing parts, boots, prepares, and checks that L1 has the properties that the scenarios need.
    fn boot(&self, viommu: &(&str, String)) -> Result<String, String> {
        // The build needs the network and may take minutes: it has no time limit, and its failure is not a failure of
        // the boot.
        let build = Ran::from(lab_command(self.arch.image(), &[self.name]).output());
        if build.status != Some(0) {
            return Err(build.output);
        }
        let owner = std::process::id().to_string();
        let instance = format!("test-{}-{}-{}-{owner}", self.name, self.arch.name(), self.security.name());
        let mut boot = lab_command("nested/boot.sh", &[self.name, &instance]);
        if matches!((self.arch, self.security), (Arch::X86, Security::None)) {
            boot.env("VIOMMU_TEST", test_program("hook")?);
        }
        let boot = boot
            .env("ARCH", self.arch.name())
            .env(viommu.0, &viommu.1)
            .env("OWNER", owner)
            .envs(self.security.boot().iter().copied())
            .output();
        let boot = Ran::from(boot);
        if boot.status != Some(0) {
            return Err(boot.output);
        }
        let prepare = lab_command("nested/run.sh", &[&instance, "bash /lab/prepare.sh"])
            .env("LIMIT", (4 * self.security.prepare_seconds()).to_string())
            .output();
        let prepare = Ran::from(prepare);
        let found = Results::parse(&prepare.output);
        let Some(values) = found.find("prepare").filter(|_| prepare.status == Some(0)) else {
            return Err(prepare.output);
        };
        let as_expected = values.get("libvirt").starts_with(self.libvirt)
            && values.get("qemu").starts_with(self.qemu)
            && values.get("iommu_groups") == "5";
        if as_expected { Ok(instance) } else { Err(format!("not the L1 that was expected: {}", values.line)) }
    }
}

/// The output of a lab script, both streams, and its exit status.
struct Ran {
    status: Option<i32>,
    output: String,
}

impl From<std::io::Result<Output>> for Ran {
    fn from(result: std::io::Result<Output>) -> Self {
        match result {
            Ok(output) => Self {
                status: output.status.code(),
                output: format!(
                    "{}{}",
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                ),
            },
            Err(error) => Self { status: None, output: error.to_string() },
        }
    }
}

fn lab_command(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab").join(script));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The path of another test program of this package; cargo builds an outdated one.
fn test_program(name: &str) -> Result<String, String> {
    let cargo = env::var_os("CARGO").ok_or("not run by cargo")?;
    let mut build = Command::new(cargo);
    build.args(["test", "--locked", "--no-run", "--message-format=json", "--test", name]);
    let build = Ran::from(build.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).output());
    let path = build.output.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message.pointer("/target/name").is_some_and(|target| target == name);
        Some(message.get("executable")?.as_str().filter(|_| is_it)?.to_owned())
    });
    path.ok_or(build.output)
}

/// The reason why this machine can have no lab.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("only root can build and chroot into a Debian root".to_owned());
    }
    let runs =
        |program: &str, argument: &str| Command::new(program).arg(argument).output().is_ok_and(|o| o.status.success());
    if !runs("mmdebstrap", "--version") {
        return Some("mmdebstrap is not installed".to_owned());
    }
    let namespace = Command::new("unshare").args(["--mount", "true"]).output();
    if !namespace.is_ok_and(|output| output.status.success()) {
        return Some("this root may not make a mount namespace".to_owned());
    }
    None
}

/// Bypasses the test harness, which hides the output of a passing test.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
