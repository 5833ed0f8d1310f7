#!/bin/sh
# by-hand IFACE TABLE: what ec2net's exit hook does, as one would write it with
# curl, ip and a shell: the facts, then what is missing and what is too much.
iface=$1 table=$2
imds=http://169.254.169.254/latest
token=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $imds/api/token) || exit
get() { curl -sf -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/$1"; }

read -r mac <"/sys/class/net/$iface/address"
eni=network/interfaces/macs/$mac
listing=$(get "$eni/") || exit
test "$(get mac)" != "$mac" || exit
for key in interface-id device-number network-card subnet-ipv4-cidr-block vpc-ipv4-cidr-blocks; do
	case $listing in *$key*) test -n "$(get "$eni/$key")" || exit ;; esac
done
wanted=$(get "$eni/local-ipv4s") || exit

rules=$(ip rule)
addrs=$(ip -4 -oneline addr show dev "$iface")
mark=$(printf '0x%x/0x3fff' "$table")
for a in $wanted; do
	case $addrs in *"inet $a/"*) ;; *) ip addr add "$a/32" dev "$iface" ;; esac
	case $rules in *"from $a lookup $table "*) ;; *) ip rule add pref "$table" from "$a" lookup "$table" protocol 236 ;; esac
done
case $rules in *"fwmark $mark lookup $table "*) ;; *) ip rule add pref "$table" fwmark "$mark" lookup "$table" protocol 236 ;; esac
echo "$rules" | while read -r pref _ from _ to _; do
	test "$pref $to" = "$table: $table" || continue
	case "
$wanted
" in *"
$from
"*) ;; *) ip rule del pref "$table" from "$from" lookup "$table" ;; esac
done
