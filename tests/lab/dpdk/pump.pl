#!/usr/bin/perl
# Sends Ethernet frames to one port of a guest and counts those that come back from the other.
#
#   pump.pl COUNT TO FROM      prints "sent N received N"
#
# TO and FROM are local UDP ports, as QEMU's datagram backend has them (FROM is where the guest's datagrams arrive), or network interfaces.
use strict;
use warnings;
use IO::Socket::INET;
my ($count, $to, $from) = @ARGV;
my $type = 0x88b5; # for experiments

# A packet socket on an interface, for this type only: the constants and the address are those of packet(7).
sub interface {
    my ($name) = @_;
    open(my $file, '<', "/sys/class/net/$name/ifindex") or die "$name: $!\n";
    socket(my $socket, 17, SOCK_RAW, unpack('S', pack('n', $type))) or die "socket: $!\n";
    bind($socket, pack('S n i S C C x8', 17, $type, <$file>, 0, 0, 0)) or die "bind: $!\n";
    return $socket;
}
sub udp { IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1', @_) or die "$!\n" }
my $out = $to =~ /^\d+$/ ? udp(PeerAddr => '127.0.0.1', PeerPort => $to) : interface($to);
my $in = $from =~ /^\d+$/ ? udp(LocalPort => $from) : interface($from);

my ($sent, $received) = (0, 0);
# The maximum number of frames in flight; each queue on the path can hold that many.
my $window = 32;
while ($received < $count) {
    while ($sent < $count and $sent - $received < $window) {
        # Local addresses, the type, a number.
        defined(send($out, pack('H12 H12 n N x46', '525400000002', '525400000001', $type, $sent), 0)) or die "send: $!\n";
        $sent++;
    }
    my $ready = '';
    vec($ready, fileno($in), 1) = 1;
    last unless select($ready, undef, undef, 30);
    defined(recv($in, my $buffer, 2048, 0)) or die "recv: $!\n";
    my ($found, $number) = unpack('x12 n N', $buffer);
    next unless $found == $type;
    $number == $received or die "frame $number in place of $received\n";
    $received++;
}
print "sent $sent received $received\n";
