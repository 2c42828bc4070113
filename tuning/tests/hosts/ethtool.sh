#!/bin/sh
# What ethtool(8) prints for `-k CARD`, for the tests: one of the offloads is off.
cat <<END
Features for $2:
rx-checksumming: on [fixed]
tx-checksumming: on
	tx-checksum-ipv4: off [fixed]
tcp-segmentation-offload: on
	tx-tcp-segmentation: on
generic-receive-offload: off
END
