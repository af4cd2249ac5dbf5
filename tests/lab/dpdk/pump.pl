#!/usr/bin/perl
# Sends Ethernet frames as datagrams to one port of a guest and counts those that come back from the other.
#
#   pump.pl COUNT TO FROM      prints "sent N received N"; FROM is the local port at which the guest's datagrams arrive
use strict;
use warnings;
use IO::Socket::INET;
my ($count, $to, $from) = @ARGV;
my $out = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1', PeerAddr => '127.0.0.1', PeerPort => $to) or die "$!\n";
my $in = IO::Socket::INET->new(Proto => 'udp', LocalAddr => "127.0.0.1:$from") or die "$!\n";
my ($sent, $received, $buffer) = (0, 0);
# No more than this many on their way, which every queue in between holds.
my $window = 32;
while ($received < $count) {
    while ($sent < $count and $sent - $received < $window) {
        # Local addresses, a type for experiments, a number.
        $out->send(pack('H12 H12 n N x46', '525400000002', '525400000001', 0x88b5, $sent)) or die "send: $!\n";
        $sent++;
    }
    my $ready = '';
    vec($ready, fileno($in), 1) = 1;
    last unless select($ready, undef, undef, 30);
    $in->recv($buffer, 2048);
    my ($type, $number) = unpack('x12 n N', $buffer);
    next unless $type == 0x88b5;
    $number == $received or die "frame $number in place of $received\n";
    $received++;
}
print "sent $sent received $received\n";
