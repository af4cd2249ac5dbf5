# shellcheck shell=bash
# Completion for bash, made from viommu's arguments (tests/manual.rs).

_viommu_words() {
    case $1 in
        verb) echo 'plan rewrite apply remove memlock capabilities doctor explain hook host-route help' ;;
        help/1) echo 'plan rewrite apply remove memlock capabilities doctor explain hook host-route help' ;;
        plan/-) echo '--format --exit-code --connect --model --locked-memory --virtio --purpose --libvirt-version --qemu-version --host-aw-bits --sysfs --host --config --help' ;;
        plan/--format) echo 'text json diff' ;;
        plan/--connect) echo 'qemu:///system qemu:///session' ;;
        plan/--model) echo 'none intel smmuv3 virtio amd auto' ;;
        plan/--virtio) echo '@nothing' ;;
        plan/--purpose) echo '@nothing' ;;
        plan/--libvirt-version) echo '@nothing' ;;
        plan/--qemu-version) echo '@nothing' ;;
        plan/--host-aw-bits) echo '@nothing' ;;
        plan/--sysfs) echo '@directories' ;;
        plan/--host) echo '@files' ;;
        plan/--config) echo '@files' ;;
        plan/1) echo '@files @domains' ;;
        rewrite/-) echo '--model --locked-memory --virtio --purpose --libvirt-version --qemu-version --host-aw-bits --sysfs --host --config --help' ;;
        rewrite/--model) echo 'none intel smmuv3 virtio amd auto' ;;
        rewrite/--virtio) echo '@nothing' ;;
        rewrite/--purpose) echo '@nothing' ;;
        rewrite/--libvirt-version) echo '@nothing' ;;
        rewrite/--qemu-version) echo '@nothing' ;;
        rewrite/--host-aw-bits) echo '@nothing' ;;
        rewrite/--sysfs) echo '@directories' ;;
        rewrite/--host) echo '@files' ;;
        rewrite/--config) echo '@files' ;;
        rewrite/1) echo '@files' ;;
        apply/-) echo '--all --yes --dry-run --connect --route --model --locked-memory --virtio --purpose --libvirt-version --qemu-version --host-aw-bits --sysfs --host --config --help' ;;
        apply/--connect) echo 'qemu:///system qemu:///session' ;;
        apply/--route) echo 'native wrapper' ;;
        apply/--model) echo 'none intel smmuv3 virtio amd auto' ;;
        apply/--virtio) echo '@nothing' ;;
        apply/--purpose) echo '@nothing' ;;
        apply/--libvirt-version) echo '@nothing' ;;
        apply/--qemu-version) echo '@nothing' ;;
        apply/--host-aw-bits) echo '@nothing' ;;
        apply/--sysfs) echo '@directories' ;;
        apply/--host) echo '@files' ;;
        apply/--config) echo '@files' ;;
        apply/\*) echo '@domains' ;;
        remove/-) echo '--all --yes --dry-run --connect --help' ;;
        remove/--connect) echo 'qemu:///system qemu:///session' ;;
        remove/\*) echo '@domains' ;;
        memlock/-) echo '--pid --raise --connect --libvirt-version --qemu-version --host-aw-bits --sysfs --host --config --help' ;;
        memlock/--pid) echo '@nothing' ;;
        memlock/--connect) echo 'qemu:///system qemu:///session' ;;
        memlock/--libvirt-version) echo '@nothing' ;;
        memlock/--qemu-version) echo '@nothing' ;;
        memlock/--host-aw-bits) echo '@nothing' ;;
        memlock/--sysfs) echo '@directories' ;;
        memlock/--host) echo '@files' ;;
        memlock/--config) echo '@files' ;;
        memlock/1) echo '@domains' ;;
        capabilities/-) echo '--format --libvirt-version --qemu-version --host-aw-bits --sysfs --host --help' ;;
        capabilities/--format) echo 'text json placement nfd ansible' ;;
        capabilities/--libvirt-version) echo '@nothing' ;;
        capabilities/--qemu-version) echo '@nothing' ;;
        capabilities/--host-aw-bits) echo '@nothing' ;;
        capabilities/--sysfs) echo '@directories' ;;
        capabilities/--host) echo '@files' ;;
        doctor/-) echo '--format --root --clean --help' ;;
        doctor/--format) echo 'text json' ;;
        doctor/--root) echo '@directories' ;;
        explain/-) echo '--list --help' ;;
        explain/1) echo '@codes @files' ;;
        hook/-) echo '--dry-run --libvirt-version --qemu-version --host-aw-bits --sysfs --host --help' ;;
        hook/--libvirt-version) echo '@nothing' ;;
        hook/--qemu-version) echo '@nothing' ;;
        hook/--host-aw-bits) echo '@nothing' ;;
        hook/--sysfs) echo '@directories' ;;
        hook/--host) echo '@files' ;;
        hook/1) echo '@domains' ;;
        hook/2) echo 'prepare start started stopped release migrate restore reconnect attach' ;;
        hook/3) echo 'begin end' ;;
        hook/4) echo '@nothing' ;;
        host-route/-) echo '--dry-run --help' ;;
        host-route/1) echo 'on off status' ;;
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
