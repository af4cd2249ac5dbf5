# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_viommu_global_optspecs
    string join \n h/help V/version
end

function __fish_viommu_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_viommu_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_viommu_using_subcommand
    set -l cmd (__fish_viommu_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c viommu -n "__fish_viommu_needs_command" -s h -l help -d 'Print help'
complete -c viommu -n "__fish_viommu_needs_command" -s V -l version -d 'Print version'
complete -c viommu -n "__fish_viommu_needs_command" -f -a "plan" -d 'Show what would be done for a domain, and why; change nothing'
complete -c viommu -n "__fish_viommu_needs_command" -f -a "rewrite" -d 'Filter: read domain XML, write the rewritten domain XML, and change no other byte'
complete -c viommu -n "__fish_viommu_needs_command" -f -a "apply" -d 'Give domains the vIOMMU that they ask for: show the change, ask for confirmation, redefine them through virsh'
complete -c viommu -n "__fish_viommu_needs_command" -f -a "remove" -d 'Remove what apply has added: show the change, ask for confirmation, redefine the domains through virsh'
complete -c viommu -n "__fish_viommu_needs_command" -f -a "memlock" -d 'Show, and raise, the locked-memory limit of a running guest'
complete -c viommu -n "__fish_viommu_needs_command" -f -a "capabilities" -d 'Show the facts about this host, which vIOMMU models it can give, and why not the others'
complete -c viommu -n "__fish_viommu_needs_command" -f -a "doctor" -d 'Check whether everything is in place on this host, and say what to do about what is not'
complete -c viommu -n "__fish_viommu_needs_command" -f -a "explain" -d 'Explain a code, or the lines of a log, and say what to do'
complete -c viommu -n "__fish_viommu_needs_command" -f -a "hook" -d 'Run libvirt\'s hook by hand, or from another hook'
complete -c viommu -n "__fish_viommu_needs_command" -f -a "host-route" -d 'Make the wrapper the default emulator of this host\'s libvirt, or QEMU again'
complete -c viommu -n "__fish_viommu_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c viommu -n "__fish_viommu_using_subcommand plan" -l format -d 'Output format' -r -f -a "text\t'For people'
json\t'For programs, and for --host'
diff\t'The change of the domain XML only'"
complete -c viommu -n "__fish_viommu_using_subcommand plan" -l connect -d 'libvirt connection URI, as for virsh' -r
complete -c viommu -n "__fish_viommu_using_subcommand plan" -l model -d 'vIOMMU model' -r -f -a "none\t''
intel\t''
smmuv3\t''
virtio\t''
auto\t''"
complete -c viommu -n "__fish_viommu_using_subcommand plan" -l locked-memory -d 'Lock all of the guest\'s memory' -r -f -a "true\t''
false\t''"
complete -c viommu -n "__fish_viommu_using_subcommand plan" -l libvirt-version -d 'Version of libvirt' -r
complete -c viommu -n "__fish_viommu_using_subcommand plan" -l qemu-version -d 'Version of QEMU' -r
complete -c viommu -n "__fish_viommu_using_subcommand plan" -l host-aw-bits -d 'Address width of the host\'s IOMMU, bits' -r
complete -c viommu -n "__fish_viommu_using_subcommand plan" -l sysfs -d 'sysfs mount point [default: /sys]' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand plan" -l host -d 'Output of \'viommu capabilities --format json\' on another host; repeatable for \'plan\'' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand plan" -l config -d 'Configuration file [default: /etc/viommu.toml]' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand plan" -l exit-code -d 'Exit with status 3 if something would change'
complete -c viommu -n "__fish_viommu_using_subcommand plan" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c viommu -n "__fish_viommu_using_subcommand rewrite" -l model -d 'vIOMMU model' -r -f -a "none\t''
intel\t''
smmuv3\t''
virtio\t''
auto\t''"
complete -c viommu -n "__fish_viommu_using_subcommand rewrite" -l locked-memory -d 'Lock all of the guest\'s memory' -r -f -a "true\t''
false\t''"
complete -c viommu -n "__fish_viommu_using_subcommand rewrite" -l libvirt-version -d 'Version of libvirt' -r
complete -c viommu -n "__fish_viommu_using_subcommand rewrite" -l qemu-version -d 'Version of QEMU' -r
complete -c viommu -n "__fish_viommu_using_subcommand rewrite" -l host-aw-bits -d 'Address width of the host\'s IOMMU, bits' -r
complete -c viommu -n "__fish_viommu_using_subcommand rewrite" -l sysfs -d 'sysfs mount point [default: /sys]' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand rewrite" -l host -d 'Output of \'viommu capabilities --format json\' on another host; repeatable for \'plan\'' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand rewrite" -l config -d 'Configuration file [default: /etc/viommu.toml]' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand rewrite" -s h -l help -d 'Print help'
complete -c viommu -n "__fish_viommu_using_subcommand apply" -l connect -d 'libvirt connection URI, as for virsh' -r
complete -c viommu -n "__fish_viommu_using_subcommand apply" -l route -d 'How the vIOMMU reaches QEMU [default: wrapper if <emulator> is the wrapper, else native]' -r -f -a "native\t'In the domain XML, as a device of libvirt'
wrapper\t'By the wrapper as <emulator>, which adds it to QEMU\'s command line'"
complete -c viommu -n "__fish_viommu_using_subcommand apply" -l model -d 'vIOMMU model' -r -f -a "none\t''
intel\t''
smmuv3\t''
virtio\t''
auto\t''"
complete -c viommu -n "__fish_viommu_using_subcommand apply" -l locked-memory -d 'Lock all of the guest\'s memory' -r -f -a "true\t''
false\t''"
complete -c viommu -n "__fish_viommu_using_subcommand apply" -l libvirt-version -d 'Version of libvirt' -r
complete -c viommu -n "__fish_viommu_using_subcommand apply" -l qemu-version -d 'Version of QEMU' -r
complete -c viommu -n "__fish_viommu_using_subcommand apply" -l host-aw-bits -d 'Address width of the host\'s IOMMU, bits' -r
complete -c viommu -n "__fish_viommu_using_subcommand apply" -l sysfs -d 'sysfs mount point [default: /sys]' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand apply" -l host -d 'Output of \'viommu capabilities --format json\' on another host; repeatable for \'plan\'' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand apply" -l config -d 'Configuration file [default: /etc/viommu.toml]' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand apply" -l all -d 'Every domain'
complete -c viommu -n "__fish_viommu_using_subcommand apply" -s y -l yes -d 'Do not ask for confirmation'
complete -c viommu -n "__fish_viommu_using_subcommand apply" -l dry-run -d 'Show the change only'
complete -c viommu -n "__fish_viommu_using_subcommand apply" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c viommu -n "__fish_viommu_using_subcommand remove" -l connect -d 'libvirt connection URI, as for virsh' -r
complete -c viommu -n "__fish_viommu_using_subcommand remove" -l all -d 'Every domain'
complete -c viommu -n "__fish_viommu_using_subcommand remove" -s y -l yes -d 'Do not ask for confirmation'
complete -c viommu -n "__fish_viommu_using_subcommand remove" -l dry-run -d 'Show the change only'
complete -c viommu -n "__fish_viommu_using_subcommand remove" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c viommu -n "__fish_viommu_using_subcommand memlock" -l pid -d 'Process of a QEMU, instead of a domain' -r
complete -c viommu -n "__fish_viommu_using_subcommand memlock" -l connect -d 'libvirt connection URI, as for virsh' -r
complete -c viommu -n "__fish_viommu_using_subcommand memlock" -l libvirt-version -d 'Version of libvirt' -r
complete -c viommu -n "__fish_viommu_using_subcommand memlock" -l qemu-version -d 'Version of QEMU' -r
complete -c viommu -n "__fish_viommu_using_subcommand memlock" -l host-aw-bits -d 'Address width of the host\'s IOMMU, bits' -r
complete -c viommu -n "__fish_viommu_using_subcommand memlock" -l sysfs -d 'sysfs mount point [default: /sys]' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand memlock" -l host -d 'Output of \'viommu capabilities --format json\' on another host; repeatable for \'plan\'' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand memlock" -l config -d 'Configuration file [default: /etc/viommu.toml]' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand memlock" -l raise -d 'Raise the limit so that one more VFIO device can be hot-plugged'
complete -c viommu -n "__fish_viommu_using_subcommand memlock" -s h -l help -d 'Print help'
complete -c viommu -n "__fish_viommu_using_subcommand capabilities" -l format -d 'Output format' -r -f -a "text\t'For people'
json\t'For programs, and for --host'
placement\t'For OpenStack: a provider configuration for nova-compute'
nfd\t'For Kubernetes: a feature file for node-feature-discovery'
ansible\t'For Ansible: a local fact'"
complete -c viommu -n "__fish_viommu_using_subcommand capabilities" -l libvirt-version -d 'Version of libvirt' -r
complete -c viommu -n "__fish_viommu_using_subcommand capabilities" -l qemu-version -d 'Version of QEMU' -r
complete -c viommu -n "__fish_viommu_using_subcommand capabilities" -l host-aw-bits -d 'Address width of the host\'s IOMMU, bits' -r
complete -c viommu -n "__fish_viommu_using_subcommand capabilities" -l sysfs -d 'sysfs mount point [default: /sys]' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand capabilities" -l host -d 'Output of \'viommu capabilities --format json\' on another host; repeatable for \'plan\'' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand capabilities" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c viommu -n "__fish_viommu_using_subcommand doctor" -l format -d 'Output format' -r -f -a "text\t'For people'
json\t'For programs, and for --host'"
complete -c viommu -n "__fish_viommu_using_subcommand doctor" -l root -d 'Examine the host whose file system is mounted at DIR: an image, a chroot' -r -F
complete -c viommu -n "__fish_viommu_using_subcommand doctor" -l clean -d 'First remove what viommu keeps in /run/viommu and /var/lib/viommu of guests that libvirt no longer knows'
complete -c viommu -n "__fish_viommu_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c viommu -n "__fish_viommu_using_subcommand explain" -l list -d 'List the codes'
complete -c viommu -n "__fish_viommu_using_subcommand explain" -s h -l help -d 'Print help'
complete -c viommu -n "__fish_viommu_using_subcommand hook" -l dry-run -d 'Show what would happen only'
complete -c viommu -n "__fish_viommu_using_subcommand hook" -s h -l help -d 'Print help'
complete -c viommu -n "__fish_viommu_using_subcommand host-route" -l dry-run -d 'Only say what would be done'
complete -c viommu -n "__fish_viommu_using_subcommand host-route" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c viommu -n "__fish_viommu_using_subcommand help; and not __fish_seen_subcommand_from plan rewrite apply remove memlock capabilities doctor explain hook host-route help" -f -a "plan" -d 'Show what would be done for a domain, and why; change nothing'
complete -c viommu -n "__fish_viommu_using_subcommand help; and not __fish_seen_subcommand_from plan rewrite apply remove memlock capabilities doctor explain hook host-route help" -f -a "rewrite" -d 'Filter: read domain XML, write the rewritten domain XML, and change no other byte'
complete -c viommu -n "__fish_viommu_using_subcommand help; and not __fish_seen_subcommand_from plan rewrite apply remove memlock capabilities doctor explain hook host-route help" -f -a "apply" -d 'Give domains the vIOMMU that they ask for: show the change, ask for confirmation, redefine them through virsh'
complete -c viommu -n "__fish_viommu_using_subcommand help; and not __fish_seen_subcommand_from plan rewrite apply remove memlock capabilities doctor explain hook host-route help" -f -a "remove" -d 'Remove what apply has added: show the change, ask for confirmation, redefine the domains through virsh'
complete -c viommu -n "__fish_viommu_using_subcommand help; and not __fish_seen_subcommand_from plan rewrite apply remove memlock capabilities doctor explain hook host-route help" -f -a "memlock" -d 'Show, and raise, the locked-memory limit of a running guest'
complete -c viommu -n "__fish_viommu_using_subcommand help; and not __fish_seen_subcommand_from plan rewrite apply remove memlock capabilities doctor explain hook host-route help" -f -a "capabilities" -d 'Show the facts about this host, which vIOMMU models it can give, and why not the others'
complete -c viommu -n "__fish_viommu_using_subcommand help; and not __fish_seen_subcommand_from plan rewrite apply remove memlock capabilities doctor explain hook host-route help" -f -a "doctor" -d 'Check whether everything is in place on this host, and say what to do about what is not'
complete -c viommu -n "__fish_viommu_using_subcommand help; and not __fish_seen_subcommand_from plan rewrite apply remove memlock capabilities doctor explain hook host-route help" -f -a "explain" -d 'Explain a code, or the lines of a log, and say what to do'
complete -c viommu -n "__fish_viommu_using_subcommand help; and not __fish_seen_subcommand_from plan rewrite apply remove memlock capabilities doctor explain hook host-route help" -f -a "hook" -d 'Run libvirt\'s hook by hand, or from another hook'
complete -c viommu -n "__fish_viommu_using_subcommand help; and not __fish_seen_subcommand_from plan rewrite apply remove memlock capabilities doctor explain hook host-route help" -f -a "host-route" -d 'Make the wrapper the default emulator of this host\'s libvirt, or QEMU again'
complete -c viommu -n "__fish_viommu_using_subcommand help; and not __fish_seen_subcommand_from plan rewrite apply remove memlock capabilities doctor explain hook host-route help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
