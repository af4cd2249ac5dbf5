"""Nova's libvirt driver with viommu between Nova's domain XML and libvirt.

Nova loads drivers from its package nova.virt only. Install this file there as viommu.py, and set in nova-compute's configuration:

    [DEFAULT]
    compute_driver = viommu.Driver
"""

from nova import exception
from nova.virt.libvirt import driver
from oslo_concurrency import processutils


class Driver(driver.LibvirtDriver):
    """Passes each domain through "viommu rewrite" before libvirt defines it."""

    def _get_guest_xml(self, *args, **kwargs):
        xml = super()._get_guest_xml(*args, **kwargs)
        try:
            return processutils.execute("viommu", "rewrite", process_input=xml)[0]
        except (processutils.ProcessExecutionError, OSError) as error:
            # Nova shows this reason to the user, and tries no other host.
            raise exception.InvalidInput(reason=(getattr(error, "stderr", None) or str(error)).strip())
