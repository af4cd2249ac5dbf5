//! The L1 of each suite: built and booted when the first test asks for it, stopped when the tests are over.

use std::env;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use super::results::Results;
use super::support::packages::packages;

/// What L1 is: a distribution release, confined or not. One scenario at a time: they share its NICs.
pub(super) struct Suite {
    name: &'static str,
    libvirt: &'static str,
    qemu: &'static str,
    security: Security,
    arch: Arch,
    host: Mutex<Host>,
}

/// The architecture of L1 and its guests; in the words of `boot.sh`.
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

    /// What builds L1's disk.
    fn image(self) -> &'static str {
        match self {
            Arch::X86 => "nested/image.sh",
            Arch::Arm => "arm64/image.sh",
        }
    }

    /// The viommu that L1 gets.
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

/// What confines libvirtd and its guests.
#[derive(Clone, Copy)]
pub(super) enum Security {
    None,
    /// As the distribution has it, which takes systemd.
    AppArmor,
    /// Enforcing, likewise.
    SeLinux,
}

impl Security {
    /// For the instance's name.
    fn name(self) -> &'static str {
        match self {
            Security::None => "plain",
            Security::AppArmor => "apparmor",
            Security::SeLinux => "enforcing",
        }
    }

    /// From power-on to the first command: what `boot.sh` reads from its environment, with four times what it took.
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

    /// How long `prepare.sh` takes on two busy cores, seconds.
    fn prepare_seconds(self) -> u64 {
        match self {
            Security::None => 12,
            Security::AppArmor => 20,
            // To load a policy module takes longer than all the rest.
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

    /// Runs `scenarios/NAME.sh`, which took so many seconds here; none where there is no lab.
    ///
    /// A run that went over its limit or lost its L1 is tried once more on a fresh one, for the machine may have been
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

    /// The name of the L1 that runs, booted if need be; none where there can be no lab.
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

    /// What brings viommu to L1: a variable of `boot.sh`'s, and its value. A confined host gets the package; none where the tools to
    /// build it are missing.
    fn viommu(&self) -> Result<Option<(&'static str, String)>, String> {
        match self.security {
            Security::None => self.arch.binary().map(|binary| Some(("VIOMMU_BIN", binary))),
            Security::AppArmor | Security::SeLinux => {
                Ok(packages().map(|built| ("VIOMMU_DEB", built.deb.display().to_string())))
            }
        }
    }

    /// Builds what is missing, boots, prepares, and checks that L1 is what the scenarios take it for.
    fn boot(&self, viommu: &(&str, String)) -> Result<String, String> {
        // Building needs the network and may take minutes: it has no limit, and its failure is not one of the boot.
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

/// What a script of the lab said, both streams, and its exit status.
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

/// The path of another test program of this package, which cargo builds if it is not up to date.
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

/// Why there can be no lab on this machine.
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

/// Past the test harness, which keeps what a passing test prints to itself.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
