//! Calls for many domains at once: one virsh for all of them, because its start and connection take longer than most
//! calls.

use std::fmt::Write as _;
use std::fs;

use super::{Libvirt, Output, UNDEFINE, domain_name, quote};

impl Libvirt {
    /// Defines and undefines the domain.
    ///
    /// # Errors
    ///
    /// libvirt's error.
    pub(crate) fn define(&self, xml: &str) -> Result<(), String> {
        self.define_many(&[xml]).remove(0)
    }

    /// [`Libvirt::define`] for many domains, in milliseconds each. Names and UUIDs may repeat.
    pub(crate) fn define_many(&self, domains: &[impl AsRef<str>]) -> Vec<Result<(), String>> {
        let directory = self.share.join("define");
        fs::create_dir_all(&directory).unwrap();
        let mut commands = String::new();
        for (index, xml) in domains.iter().enumerate() {
            fs::write(directory.join(index.to_string()), xml.as_ref()).unwrap();
            let name = quote(&domain_name(xml.as_ref()));
            writeln!(commands, "define /share/define/{index}\n{UNDEFINE} {name}").unwrap();
        }
        fs::write(directory.join("commands"), commands).unwrap();
        let output = self.run("virsh </share/define/commands");
        fs::remove_dir_all(&directory).unwrap();
        verdicts(domains.len(), &output)
    }

    /// The command line with which libvirt would start the domain, including the emulator. No domain is defined or
    /// started.
    ///
    /// libvirt 9.0 needs `<driver name='vfio'/>` in every PCI host device here.
    ///
    /// # Errors
    ///
    /// libvirt's error.
    pub(crate) fn domxml_to_native(&self, xml: &str) -> Result<Vec<String>, String> {
        fs::write(self.share.join("native.xml"), xml).unwrap();
        self.domxml_to_native_many(&[xml]).remove(0)
    }

    /// [`Libvirt::domxml_to_native`] for many domains, in milliseconds each.
    pub(crate) fn domxml_to_native_many(&self, domains: &[impl AsRef<str>]) -> Vec<Result<Vec<String>, String>> {
        let lines = self.batch(domains, |_, path| format!("domxml-to-native qemu-argv --xml {path}"));
        // libvirt quotes the words for a shell, so a shell splits them. The environment comes first.
        let directory = self.share.join("lines");
        fs::create_dir_all(&directory).unwrap();
        for (index, line) in lines.iter().enumerate() {
            fs::write(directory.join(index.to_string()), line.as_deref().unwrap_or_default()).unwrap();
        }
        let words = self.run(&format!(
            "for ((line = 0; line < {}; line++)); do
                eval \"set -- $(<\"/share/lines/$line\")\"
                while [[ ${{1-}} == [A-Z]*=* ]]; do shift; done
                printf '%s\\0' $# \"$@\"
            done",
            lines.len()
        ));
        fs::remove_dir_all(&directory).unwrap();
        let words = words.ok();
        let mut words = words.split_terminator('\0').map(str::to_owned);
        let mut own = || {
            let count = words.next().unwrap().parse().unwrap();
            words.by_ref().take(count).collect()
        };
        lines.into_iter().map(|line| (line, own())).map(|(line, words)| line.map(|_| words)).collect()
    }

    /// The domains as libvirt stores them: with the address of every device, and all defaults.
    ///
    /// # Errors
    ///
    /// libvirt's error.
    pub(crate) fn settled_many(&self, domains: &[impl AsRef<str>]) -> Vec<Result<String, String>> {
        let names: Vec<String> = domains.iter().map(|xml| domain_name(xml.as_ref())).collect();
        self.settled_as(domains, &names)
    }

    /// [`Libvirt::settled_many`] of domains with separate names or UUIDs, for names that are hard to parse.
    ///
    /// # Errors
    ///
    /// libvirt's error.
    pub(crate) fn settled_as(&self, domains: &[impl AsRef<str>], names: &[String]) -> Vec<Result<String, String>> {
        self.batch(domains, |index, path| {
            let name = quote(&names[index]);
            format!("define {path}\ndumpxml --inactive {name}\n{UNDEFINE} {name}")
        })
    }

    /// virsh's output for the commands of each domain, or its first error.
    fn batch(
        &self,
        domains: &[impl AsRef<str>],
        commands: impl Fn(usize, &str) -> String,
    ) -> Vec<Result<String, String>> {
        const CRASHED: &str = "libvirtd crashes";
        let directory = self.share.join("batch");
        fs::create_dir_all(&directory).unwrap();
        let mut all = Vec::new();
        for (index, xml) in domains.iter().enumerate() {
            fs::write(directory.join(index.to_string()), xml.as_ref()).unwrap();
            let commands = commands(index, &format!("/share/batch/{index}"));
            all.push(format!("{MARK}\n{commands}\n"));
        }
        let mut answers = Vec::new();
        while answers.len() < domains.len() {
            fs::write(directory.join("commands"), all[answers.len()..].concat()).unwrap();
            let output = self.run("virsh -q </share/batch/commands");
            let lost =
                |answer: &Result<String, String>| answer.as_ref().is_err_and(|error| error.contains(DISCONNECTED));
            let new = answers_of(&output);
            assert_eq!(new.len(), domains.len() - answers.len(), "{}", output.stderr);
            let good = new.iter().position(lost).unwrap_or(new.len());
            answers.extend(new.into_iter().take(good));
            if answers.len() < domains.len() {
                answers.push(Err(CRASHED.to_owned()));
                self.run("source /run/lab.sh; stop_libvirtd; start_libvirtd").ok();
            }
        }
        fs::remove_dir_all(&directory).unwrap();
        answers
    }
}

/// The result of each domain of a batch, from virsh's output.
fn verdicts(count: usize, output: &Output) -> Vec<Result<(), String>> {
    let mut verdicts: Vec<Option<Result<(), String>>> = vec![None; count];
    let index = |path: &str| path.strip_prefix("/share/define/").and_then(|index| index.parse::<usize>().ok()).unwrap();
    // A domain's name may contain any character except a line feed, the path only the characters written above.
    for line in output.stdout.lines() {
        if let Some((_, path)) = line.rsplit_once(" defined from ") {
            verdicts[index(path)] = Some(Ok(()));
        }
    }
    let mut failed = None;
    for line in output.stderr.lines() {
        if let Some(path) = line.strip_prefix("error: Failed to define domain from ") {
            let verdict = &mut verdicts[index(path)];
            assert_eq!(*verdict, None, "virsh prints both results: {output:?}");
            failed = Some(verdict.insert(Err(String::new())));
        } else if line.starts_with("error: failed to get domain ") {
            // An undefine after a failed define; its second line repeats the error.
            failed = None;
        } else if line.starts_with("error: Failed to undefine domain ") {
            panic!("{line}: {}", output.stderr);
        } else if let Some(Err(message)) = &mut failed {
            let separator = if message.is_empty() { "" } else { "\n" };
            message.extend([separator, line.trim_start_matches("error: ")]);
        }
    }
    let complete: Option<Vec<_>> = verdicts.into_iter().collect();
    complete.unwrap_or_else(|| panic!("virsh prints no result for some of the domains: {output:?}"))
}

/// Separates the results of a batch, on both streams.
const MARK: &str = "echo --err ====";

/// virsh's message if libvirtd ended.
const DISCONNECTED: &str = "Disconnected from ";

/// virsh's output after each mark, or its first error.
fn answers_of(output: &Output) -> Vec<Result<String, String>> {
    // virsh prints each command after its prompt.
    let prompt = format!("virsh # {MARK}\n");
    let printed = output.stdout.split(&prompt).skip(1);
    let complaints = output.stderr.split("error: ====\n").skip(1);
    let own = |text: &str| {
        let text = text.strip_suffix("virsh # \n").unwrap_or(text);
        text.split_inclusive('\n').filter(|line| !line.starts_with("virsh # ")).collect()
    };
    let answer = |(printed, complaint): (&str, &str)| {
        let mut errors = complaint.lines().filter_map(|line| line.strip_prefix("error: "));
        match errors.next() {
            None => Ok(own(printed)),
            // Only the second line contains the reason.
            Some(first) if first.starts_with("Failed to define domain") => {
                Err(errors.next().unwrap_or(first).to_owned())
            }
            Some(first) => Err(first.to_owned()),
        }
    };
    printed.zip(complaints).map(answer).collect()
}
