//! QEMU's command line.
