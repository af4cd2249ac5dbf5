//! The packages: their contents, the results of the distributions' checkers, and an installation and removal of the RPM
//! without remaining files. `install.rs` tests the Debian package on hosts.

#![expect(clippy::disallowed_methods, reason = "tests do I/O")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic fails the test")]

#[path = "support/release.rs"]
mod release;
mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use release::{cross, release};
use support::libvirt::skip;
use support::packages::{Packages, build, packages};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Runs a program that must succeed, and returns its stdout.
#[track_caller]
fn output(program: &str, arguments: &[&dyn AsRef<OsStr>]) -> String {
    let mut command = Command::new(program);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments.iter().map(AsRef::as_ref));
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

/// An empty directory.
fn desk(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages").join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// The files and links below a directory, except for the files that distributions demand beside a program.
fn tree(root: &Path) -> BTreeSet<String> {
    let found = output("find", &[&root, &"!", &"-type", &"d", &"-printf", &"/%P %m %l\n"]);
    let theirs = ["changelog", "copyright", "LICENSE"].map(|name| format!("/usr/share/doc/libvirt-viommu/{name}"));
    let own = |line: &&str| !theirs.iter().any(|name| line.starts_with(name));
    let lines = found.lines().filter(own).filter(|line| !line.starts_with("/usr/share/lintian/"));
    // Packages compress manual pages, and Debian's zsh has another directory.
    lines.map(|line| line.replace(".gz ", " ").replace("vendor-completions", "site-functions")).collect()
}

#[test]
fn packages_hold_what_the_script_installs() {
    let Some(Packages { tarball, deb, rpm }) = packages() else { return };
    let desk = desk("same");
    let [by_script, by_deb, by_rpm] = ["script", "deb", "rpm"].map(|name| desk.join(name));
    output("tar", &[&"-xzf", tarball, &"-C", &desk]);
    let release = tarball.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz");
    output(desk.join(release).join("install.sh").to_str().unwrap(), &[&"--destdir", &by_script]);
    output("dpkg-deb", &[&"-x", deb, &by_deb]);
    fs::create_dir(&by_rpm).unwrap();
    let unpack = "rpm2cpio \"$1\" | cpio --quiet -idm -D \"$2\"";
    output("sh", &[&"-c", &unpack, &"sh", rpm, &by_rpm]);
    let list = tree(&by_script);
    assert!(list.contains("/usr/bin/viommu-qemu-system-x86_64 777 viommu"), "{list:?}");
    // The pages that 'viommu explain' refers to.
    for page in
        ["README.md", "docs/install.md", "docs/guides/dpdk.md", "docs/pictures/plan.svg", "examples/viommu.toml"]
    {
        assert!(list.contains(&format!("/usr/share/doc/libvirt-viommu/{page} 644 ")), "{page} is not in {list:?}");
    }
    assert!(!list.iter().any(|line| line.contains("/docs/proof")), "{list:?}");
    assert_eq!(tree(&by_deb), list);
    assert_eq!(tree(&by_rpm), list);
}

/// Debian and RPM have different names of architectures.
#[test]
fn one_command_packages_for_both_architectures() {
    if cross().is_none() {
        return;
    }
    let built = match build(&["x86_64", "aarch64"]) {
        Ok(built) => built,
        Err(reason) => {
            skip::<()>(&reason);
            return;
        }
    };
    let machines = [("amd64", "x86_64", "x86-64"), ("arm64", "aarch64", "ARM aarch64")];
    for (Packages { tarball, deb, rpm }, (debian, linux, elf)) in built.iter().zip(machines) {
        assert_eq!(output("dpkg-deb", &[&"--field", deb, &"Architecture"]).trim(), debian);
        assert_eq!(output("rpm", &[&"-qp", &"--queryformat", &"%{ARCH}", rpm]), linux);
        assert!(tarball.to_str().unwrap().ends_with(&format!("-{linux}.tar.gz")), "{tarball:?}");
        let [by_deb, by_rpm] = [format!("{linux}/deb"), format!("{linux}/rpm")].map(|name| desk(&name));
        output("dpkg-deb", &[&"-x", deb, &by_deb]);
        output("sh", &[&"-c", &"rpm2cpio \"$1\" | cpio --quiet -idm -D \"$2\"", &"sh", rpm, &by_rpm]);
        assert_eq!(tree(&by_deb), tree(&by_rpm));
        for root in [by_deb, by_rpm] {
            let kind = output("file", &[&root.join("usr/bin/viommu")]);
            assert!(kind.contains(elf) && kind.contains("static-pie linked"), "{kind}");
        }
        output("lintian", &[&"--fail-on", &"error", &"--allow-root", deb]);
    }
}

/// SECURITY.md's commands that check a release, with a key of this test.
#[test]
fn a_release_can_be_verified() {
    let Some(binary) = std::env::var_os("VIOMMU_BINARY").map(PathBuf::from).or_else(release) else { return };
    if Command::new("minisign").arg("-v").output().is_err() {
        skip::<()>("minisign is not installed");
        return;
    }
    let desk = desk("verify");
    let script = r#"
        target=$1 binary=$2
        minisign -G -W -p "$target/minisign.pub" -s "$target/key" >/dev/null
        CARGO_TARGET_DIR=$target VIOMMU_BINARY=$binary MINISIGN_KEY=$target/key packaging/build
        cd "$target/packages"
        minisign -V -q -p ../minisign.pub -m SHA256SUMS
        sha256sum --quiet --check SHA256SUMS
        [ "$(wc -l <SHA256SUMS)" = 4 ]

        # The packages have the bill of materials that is outside of them.
        mkdir deb rpm tar
        dpkg-deb -x libvirt-viommu_*.deb deb
        rpm2cpio libvirt-viommu-*.rpm | cpio --quiet -idm -D rpm
        tar -xzf viommu-*.tar.gz -C tar --strip-components=1
        for bill in {deb,rpm}/usr/share/doc/libvirt-viommu/viommu.cdx.json tar/viommu.cdx.json; do cmp "$bill" viommu-*.cdx.json; done

        # A package, or the list of checksums, that was changed.
        echo >>libvirt-viommu_*.deb
        ! sha256sum --status --check SHA256SUMS
        sha256sum -- *.deb >>SHA256SUMS
        ! minisign -V -q -p ../minisign.pub -m SHA256SUMS"#;
    output("bash", &[&"-euo", &"pipefail", &"-c", &script, &"bash", &desk, &binary]);
    let page = read("SECURITY.md");
    for command in ["minisign -V -p minisign.pub -m SHA256SUMS", "sha256sum --ignore-missing --check SHA256SUMS"] {
        assert!(page.contains(command), "SECURITY.md lacks {command}");
    }
}

#[test]
fn checkers_of_the_distributions_find_no_error() {
    let Some(packages) = packages() else { return };
    output("lintian", &[&"--fail-on", &"error", &"--allow-root", &packages.deb]);
    output("rpmlint", &[&"-c", &"packaging/rpmlint.toml", &packages.rpm]);
}

/// The maintainer scripts in the package, with the additions of the packaging tools.
#[test]
fn maintainer_scripts_are_sound() {
    let Some(packages) = packages() else { return };
    let desk = desk("scripts");
    output("dpkg-deb", &[&"-e", &packages.deb, &desk]);
    let tags = ["postin", "preun", "postun", "filetriggerscripts", "transfiletriggerscripts"];
    for tag in tags {
        let script = output("rpm", &[&"-qp", &"--queryformat", &format!("%{{{tag}}}"), &packages.rpm]);
        assert!(script.contains("viommu"), "{tag}: {script}");
        fs::write(desk.join(tag), format!("#!/bin/sh\n{script}\n")).unwrap();
    }
    for script in ["postinst", "prerm", "postrm"].into_iter().chain(tags) {
        output("shellcheck", &[&desk.join(script)]);
    }
}

#[test]
fn versions_are_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(read("packaging/debian/changelog").starts_with(&format!("libvirt-viommu ({version}-1) ")));
    let spec = read("packaging/libvirt-viommu.spec");
    let newest = spec.split("%changelog\n").nth(1).unwrap().lines().next().unwrap();
    assert!(newest.ends_with(&format!("> - {version}-1")), "{newest}");
}

#[test]
fn the_installed_example_is_the_documented_one() {
    let page = read("docs/configuration.md");
    let explained = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(read("examples/viommu.toml").ends_with(explained));
}

/// The Debian root of a suite.
fn lab_root(suite: &str) -> Option<PathBuf> {
    let lab = std::env::var_os("VIOMMU_LAB").unwrap_or_else(|| "target/lab".into());
    let root = PathBuf::from(lab).join("roots").join(suite);
    let missing = || skip(&format!("there is no {}; tests/lab/root.sh makes it", root.display()));
    if root.join(".complete").exists() { Some(root) } else { missing() }
}

#[test]
fn the_rpm_is_installed_and_removed_without_a_trace() {
    let Some(packages) = packages() else { return };
    let Some(root) = lab_root("trixie") else { return };
    let script = r#"
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends rpm >/dev/null 2>&1
        # Debian's rpm reports that packages of Debian are not in its database.
        rpm="rpm --nodeps --dbpath /tmp/rpmdb"
        files() { find / -xdev -path /tmp -prune -o -path /proc -prune -o -printf '%y %m %U:%G %l %p\n' | sort; }
        # An administrator's own hook at the place of viommu's.
        echo mine >/etc/libvirt/hooks/qemu
        # Every RPM distribution has them.
        mkdir -p /usr/share/man/man5 /usr/share/man/man8
        files >/tmp/before

        $rpm -i "/packages/$1"
        [ "$(readlink /etc/libvirt/hooks/qemu.d/50-viommu)" = /usr/bin/viommu ]
        viommu --version
        viommu-qemu-system-x86_64 -version
        files >/tmp/installed
        $rpm -V libvirt-viommu

        # Again, as an upgrade does.
        $rpm -U --replacepkgs "/packages/$1"
        files | diff /tmp/installed -

        # A later QEMU package: the wrapper's timestamp changes, its content does not.
        echo >/tmp/qemu.spec "
            Name: qemu-system-x86-core
            Version: 1
            Release: 1
            Summary: A QEMU
            License: GPL
            AutoReqProv: no
            %description
            %install
            install -D /usr/bin/qemu-system-x86_64 %{buildroot}/usr/bin/qemu-system-x86_64
            %files
            /usr/bin/qemu-system-x86_64"
        sed -i 's/^ *//' /tmp/qemu.spec
        rpmbuild -bb --quiet --dbpath /tmp/rpmdb --define '_topdir /tmp/qemu' --define '__os_install_post %{nil}' \
            --define 'debug_package %{nil}' /tmp/qemu.spec
        before=$(stat -c %z /usr/bin/viommu)
        $rpm -i /tmp/qemu/RPMS/*/*.rpm
        [ "$(stat -c %z /usr/bin/viommu)" != "$before" ]
        $rpm -V libvirt-viommu

        $rpm -e libvirt-viommu
        files | diff /tmp/before -
        [ "$(cat /etc/libvirt/hooks/qemu)" = mine ]"#;
    let (directory, name) = (packages.rpm.parent().unwrap(), packages.rpm.file_name().unwrap());
    let printed = output(
        "tests/lab/overlay.sh",
        &[&root, &"--show", &directory, &"/packages", &"sh", &"-euxc", &script, &"sh", &name],
    );
    assert!(printed.contains("QEMU emulator version"), "{printed}");
}

/// Installations and removals of libvirt and viommu in every order. If libvirt reads AppArmor's local file only, that
/// file contains viommu's line while both are installed, and otherwise equals libvirt's own.
#[test]
fn every_order_of_installation_with_libvirt() {
    let Some(packages) = packages() else { return };
    let script = r#"
        export DEBIAN_FRONTEND=noninteractive
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        deb=/packages/$1
        apt() { apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }; }
        apt update
        knows() {
            printf '#include <tunables/global>\nprofile x {\n#include <abstractions/libvirt-qemu>\n}\n' >/tmp/profile
            apparmor_parser --skip-cache --preprocess /tmp/profile | grep -q '/usr/bin/viommu rmix,'
        }
        right() {
            knows
            [ "$(readlink /etc/libvirt/hooks/qemu.d/50-viommu)" = /usr/bin/viommu ]
            [ ! -e /etc/libvirt/hooks/qemu ]
            echo "right: $*"
        }
        gone() {
            if knows; then exit 1; fi
            [ ! -L /etc/libvirt/hooks/qemu.d/50-viommu ]
            [ ! -s /etc/apparmor.d/local/abstractions/libvirt-qemu ]
            echo "gone: $*"
        }
        libvirt="libvirt-daemon-system $(dpkg-query -W -f '${Package} ' 'libvirt-daemon-*' 2>/dev/null)"
        gone at first
        apt purge $libvirt
        [ ! -e /etc/apparmor.d/abstractions/libvirt-qemu ]

        apt install libvirt-daemon-system "$deb"
        right both in one command
        apt remove $libvirt
        apt install libvirt-daemon-system
        right libvirt removed and installed again
        apt purge $libvirt
        apt install libvirt-daemon-system
        right libvirt purged and installed again
        apt remove libvirt-viommu
        # Its rules are a configuration file, which Debian keeps until it is purged.
        [ ! -L /etc/libvirt/hooks/qemu.d/50-viommu ]
        apt install "$deb"
        right installed again
        apt purge libvirt-viommu
        gone purged
        apt purge $libvirt
        apt install "$deb"
        apt install libvirt-daemon-system
        right libvirt second
        apt purge $libvirt
        apt purge libvirt-viommu
        # libvirt leaves it there when it is purged.
        [ ! -s /etc/apparmor.d/local/abstractions/libvirt-qemu ]
        apt install libvirt-daemon-system
        gone libvirt alone
        if [ ! -e /etc/apparmor.d/local/abstractions/libvirt-qemu ]; then
            echo all of them
            exit
        fi
        # A disk that is full: the operator's file is as it was.
        echo '# mine' >>/etc/apparmor.d/local/abstractions/libvirt-qemu
        mount -t tmpfs -o size=8k tmpfs /mnt
        cp -a /etc/apparmor.d/local/abstractions/. /mnt
        mount --bind /mnt /etc/apparmor.d/local/abstractions
        if cat /dev/zero >/mnt/full 2>/dev/null; then exit 1; fi
        apt install "$deb"
        grep -qx '# mine' /etc/apparmor.d/local/abstractions/libvirt-qemu
        [ ! -e /etc/apparmor.d/local/abstractions/libvirt-qemu.new ]
        rm /mnt/full
        apt install --reinstall "$deb"
        right with room
        head -n 3 /etc/apparmor.d/local/abstractions/libvirt-qemu | grep -qx '# mine'
        apt purge libvirt-viommu
        [ "$(cat /etc/apparmor.d/local/abstractions/libvirt-qemu)" = '# mine' ]
        echo all of them"#;
    let (directory, name) = (packages.deb.parent().unwrap(), packages.deb.file_name().unwrap());
    for suite in ["bookworm", "trixie", "sid"] {
        let Some(root) = lab_root(suite) else { return };
        let arguments: [&dyn AsRef<OsStr>; 8] =
            [&root, &"--show", &directory, &"/packages", &"bash", &"-euxc", &script, &"sh"];
        let arguments = [&arguments[..], &[&name]].concat();
        let printed = output("tests/lab/overlay.sh", &arguments);
        assert!(printed.ends_with("all of them\n"), "{suite}: {printed}");
    }
}

/// A fresh checkout has no binary yet; a preview prints the results of its build.
#[test]
fn a_preview_names_the_binary_before_it_is_built() {
    let nowhere = desk("preview");
    let mut preview = Command::new("./install.sh");
    preview.args(["--dry-run", "--prefix"]).arg(nowhere.join("usr")).env("CARGO_TARGET_DIR", nowhere.join("target"));
    let output = preview.output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let binary = format!("would install {}/usr/bin/viommu", nowhere.display());
    assert!(output.status.success() && printed.lines().any(|line| line == binary), "{printed}");
    assert_eq!(fs::read_dir(&nowhere).unwrap().count(), 0);
}
