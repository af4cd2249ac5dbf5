//! Shell completions, made from the program's own arguments: names of domains from virsh, codes from viommu, and fixed
//! words.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// The values that complete an argument.
enum Values {
    Words(Vec<String>),
    Domains,
    Codes,
    Files,
    Directories,
    /// Numbers and versions.
    Nothing,
}

fn values(argument: &Arg) -> Vec<Values> {
    let words: Vec<String> = argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if !words.is_empty() {
        return vec![Values::Words(words)];
    }
    let names = argument.get_value_names().unwrap_or_default();
    let of = |name: &str| match name {
        "FILE" | "LOGFILE" => Values::Files,
        "DIR" => Values::Directories,
        "DOMAIN" | "NAME" => Values::Domains,
        "CODE" => Values::Codes,
        "URI" => Values::Words(["qemu:///system", "qemu:///session"].map(str::to_owned).to_vec()),
        _ => Values::Nothing,
    };
    names.iter().flat_map(|name| name.split('|')).map(of).collect()
}

fn long(argument: &Arg) -> Option<&str> {
    argument.get_long()
}

/// The value is the next word after the option.
fn takes_word(argument: &Arg) -> bool {
    argument.get_action().takes_values() && !argument.is_require_equals_set()
}

fn help(argument: &Arg) -> String {
    argument.get_help().map(ToString::to_string).unwrap_or_default()
}

fn about(verb: &Command) -> String {
    verb.get_about().map(ToString::to_string).unwrap_or_default()
}

fn options(verb: &Command) -> impl Iterator<Item = &Arg> {
    verb.get_arguments().filter(|argument| argument.get_long().is_some())
}

const HEAD: &str = "made from viommu's arguments (tests/manual.rs)";

/// For bash: a table of words, and a function that parses the line.
pub(crate) fn bash(command: &Command) -> String {
    let mut table = String::new();
    let mut row = |key: &str, words: &str| writeln!(table, "        {key}) echo '{words}' ;;").unwrap();
    let verbs: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    row("verb", &verbs.join(" "));
    row("help/1", &verbs.join(" "));
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let name = verb.get_name();
        let longs: Vec<String> = options(verb).filter_map(long).map(|long| format!("--{long}")).collect();
        row(&format!("{name}/-"), &longs.join(" "));
        for argument in options(verb).filter(|argument| takes_word(argument)) {
            row(&format!("{name}/--{}", long(argument).unwrap()), &bash_words(argument));
        }
        for (number, argument) in verb.get_positionals().enumerate() {
            let several = argument.get_num_args().is_some_and(|range| range.max_values() > 1);
            let position = if several { "*".to_owned() } else { (number + 1).to_string() };
            row(&format!("{name}/{}", position.replace('*', "\\*")), &bash_words(argument));
        }
    }
    BASH.replace("HEAD", HEAD).replace("        TABLE\n", &table)
}

fn bash_words(argument: &Arg) -> String {
    let word = |values: Values| match values {
        Values::Words(words) => words.join(" "),
        Values::Domains => "@domains".to_owned(),
        Values::Codes => "@codes".to_owned(),
        Values::Files => "@files".to_owned(),
        Values::Directories => "@directories".to_owned(),
        Values::Nothing => "@nothing".to_owned(),
    };
    values(argument).into_iter().map(word).collect::<Vec<_>>().join(" ")
}

const BASH: &str = r#"# shellcheck shell=bash
# Completion for bash, HEAD.

_viommu_words() {
    case $1 in
        TABLE
    esac
}

_viommu() {
    local current=${COMP_WORDS[COMP_CWORD]} verb='' option='' position=1 word name key names
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [[ -n $option ]]; then
            option=''
        elif [[ -z $verb ]]; then
            [[ $word == -* ]] || verb=$word
        elif [[ $word == --* ]]; then
            [[ -z $(_viommu_words "$verb/$word") ]] || option=$word
        elif [[ $word != -?* ]]; then
            position=$((position + 1))
        fi
    done
    if [[ -n $option ]]; then
        key=$verb/$option
    elif [[ $current == -* ]]; then
        key=$verb/-
    elif [[ -z $verb ]]; then
        key=verb
    else
        key=$verb/$position
        [[ -n $(_viommu_words "$key") ]] || key="$verb/*"
    fi
    COMPREPLY=()
    for word in $(_viommu_words "$key"); do
        names=()
        case $word in
            @domains) mapfile -t names < <(virsh --quiet list --all --name 2>/dev/null) ;;
            @codes) mapfile -t names < <(viommu explain --list 2>/dev/null | grep -v '^ ') ;;
            @files) compopt -o filenames 2>/dev/null; mapfile -t names < <(compgen -f -- "$current") ;;
            @directories) compopt -o filenames 2>/dev/null; mapfile -t names < <(compgen -d -- "$current") ;;
            @nothing) ;;
            *) names=("$word") ;;
        esac
        for name in "${names[@]}"; do
            [[ -z $name || $name != "$current"* ]] || COMPREPLY+=("$name")
        done
    done
}

complete -F _viommu viommu
"#;

/// For zsh: `_arguments` for each verb.
pub(crate) fn zsh(command: &Command) -> String {
    let quoted = |text: &str| text.replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
    let mut verbs = String::new();
    let mut cases = String::new();
    for verb in command.get_subcommands() {
        let name = verb.get_name();
        writeln!(verbs, "        '{name}:{}'", about(verb).replace('\'', "'\\''")).unwrap();
        if name == "help" {
            writeln!(cases, "        help) _describe verb verbs ;;").unwrap();
            continue;
        }
        writeln!(cases, "        {name})\n            _arguments \\").unwrap();
        for argument in options(verb) {
            let several = matches!(argument.get_action(), clap::ArgAction::Append);
            let value = if takes_word(argument) { format!(":value:{}", zsh_action(argument)) } else { String::new() };
            let star = if several { "*" } else { "" };
            let text = quoted(&help(argument));
            writeln!(cases, "                '{star}--{}[{text}]{value}' \\", long(argument).unwrap()).unwrap();
        }
        for (number, argument) in verb.get_positionals().enumerate() {
            let several = argument.get_num_args().is_some_and(|range| range.max_values() > 1);
            let position = if several { "*".to_owned() } else { (number + 1).to_string() };
            // After an empty description zsh would take the next part as the description.
            let text = Some(quoted(&help(argument))).filter(|text| !text.is_empty()).unwrap_or_else(|| " ".to_owned());
            writeln!(cases, "                '{position}:{text}:{}' \\", zsh_action(argument)).unwrap();
        }
        cases.truncate(cases.trim_end_matches([' ', '\\', '\n']).len());
        cases.push_str("\n            ;;\n");
    }
    ZSH.replace("HEAD", HEAD).replace("        VERBS\n", &verbs).replace("        CASES\n", &cases)
}

fn zsh_action(argument: &Arg) -> String {
    let action = |values: &Values| match values {
        Values::Words(words) => format!("({})", words.join(" ").replace(':', "\\:")),
        Values::Domains => "_viommu_domains".to_owned(),
        Values::Codes => "_viommu_codes".to_owned(),
        Values::Files => "_files".to_owned(),
        Values::Directories => "_files -/".to_owned(),
        Values::Nothing => " ".to_owned(),
    };
    match values(argument).as_slice() {
        [] => " ".to_owned(),
        [one] => action(one),
        [Values::Codes, _] => "_viommu_codes_and_files".to_owned(),
        _ => "_viommu_domains_and_files".to_owned(),
    }
}

const ZSH: &str = r#"#compdef viommu
# Completion for zsh, HEAD.

_viommu_domains() {
    local -a names
    names=(${(f)"$(virsh --quiet list --all --name 2>/dev/null)"})
    compadd -a names
}

_viommu_codes() {
    local -a names
    names=(${(f)"$(viommu explain --list 2>/dev/null | grep -v '^ ')"})
    compadd -a names
}

_viommu_domains_and_files() {
    _viommu_domains
    _files
}

_viommu_codes_and_files() {
    _viommu_codes
    _files
}

_viommu() {
    local context state line
    local -a verbs
    verbs=(
        VERBS
    )
    _arguments -C '(- *)--help[Print help]' '(- *)--version[Print version]' '1: :->verb' '*:: :->arguments'
    if [[ $state == verb ]]; then
        _describe verb verbs
        return
    fi
    case $line[1] in
        CASES
    esac
}

_viommu "$@"
"#;

/// For fish: one line for each option and argument.
pub(crate) fn fish(command: &Command) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut out = FISH.replace("HEAD", HEAD);
    let first = "complete -c viommu -n __fish_use_subcommand";
    let verbs: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    for verb in command.get_subcommands() {
        writeln!(out, "{first} -f -a {} -d {}", verb.get_name(), quoted(&about(verb))).unwrap();
    }
    writeln!(out, "complete -c viommu -n '__fish_seen_subcommand_from help' -f -a '{}'", verbs.join(" ")).unwrap();
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let name = verb.get_name();
        let seen = format!("complete -c viommu -n '__fish_seen_subcommand_from {name}'");
        for argument in options(verb) {
            let value = if takes_word(argument) { format!(" {}", fish_values(argument)) } else { String::new() };
            writeln!(out, "{seen} -l {}{value} -d {}", long(argument).unwrap(), quoted(&help(argument))).unwrap();
        }
        for (number, argument) in verb.get_positionals().enumerate() {
            let several = argument.get_num_args().is_some_and(|range| range.max_values() > 1);
            let at = if several { "" } else { &format!("; and __viommu_position {}", number + 1) };
            let here = format!("complete -c viommu -n '__fish_seen_subcommand_from {name}{at}'");
            writeln!(out, "{here} {}", fish_values(argument)).unwrap();
        }
    }
    out
}

fn fish_values(argument: &Arg) -> String {
    let kinds = values(argument);
    let files = kinds.iter().any(|values| matches!(values, Values::Files | Values::Directories));
    let words = kinds.iter().filter_map(|values| match values {
        Values::Words(words) => Some(words.join(" ")),
        Values::Domains => Some("(__viommu_domains)".to_owned()),
        Values::Codes => Some("(__viommu_codes)".to_owned()),
        Values::Directories => Some("(__fish_complete_directories)".to_owned()),
        Values::Files | Values::Nothing => None,
    });
    let words = words.collect::<Vec<_>>().join(" ");
    let required = if argument.is_positional() { "" } else { "r" };
    let switch = if files {
        if required.is_empty() { "-F".to_owned() } else { "-rF".to_owned() }
    } else {
        format!("-{required}f")
    };
    if words.is_empty() { switch } else { format!("{switch} -a '{words}'") }
}

const FISH: &str = "# Completion for fish, HEAD.

function __viommu_domains
    virsh --quiet list --all --name 2>/dev/null | string match -r '.+'
end

function __viommu_codes
    viommu explain --list 2>/dev/null | string match -rv '^ '
end

# Whether the word at the cursor is this argument of the verb; options with values count as well, and only shift the help.
function __viommu_position
    set -l words (commandline -opc | string match -rv '^-')
    test (count $words) -eq (math $argv[1] + 1)
end

";
