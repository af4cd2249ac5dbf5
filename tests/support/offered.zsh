# The words that zsh offers after a line: zsh -f offered.zsh LINE DIRECTORY. A second zsh on its own terminal gets the line
# and a tab, and its compadd writes the matching words into DIRECTORY.
zmodload zsh/zpty
setup=$2/setup words=$2/words
: >$words
cat >$setup <<SETUP
words_file=$words
fpath=($PWD/completions \$fpath)
SETUP
cat >>$setup <<'SETUP'
PROMPT=
autoload -Uz compinit
compinit -D -u
bindkey '^I' complete-word
zstyle ':completion:*' insert-tab false
LISTMAX=9999
comppostfuncs=(exit)
compadd() {
    # -O, -A and -D add no word.
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\ * ]]; then
        typeset -a hits
        builtin compadd -A hits "$@"
        (( $#hits )) && print -rl - $hits >>$words_file
    fi
    builtin compadd "$@"
}
print ready
SETUP
zpty shell zsh -f -i
zpty -w shell "source $setup"
while zpty -r shell line && [[ $line != *ready* ]]; do :; done
zpty -w -n shell "$1"$'\t'
while zpty -r shell line; do :; done
cat $words
