#!/bin/bash
# The native route: `viommu rewrite` writes for a request the same XML as a user would by hand (s2), and libvirt does the
# rest.
. "$(dirname "$0")/../lib.sh"
domain_xml w4 devices=2 request=intel >/tmp/w4-request.xml
viommu rewrite /tmp/w4-request.xml >/tmp/w4.xml
define_file w4 /tmp/w4.xml
try w4
