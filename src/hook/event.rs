//! The events that libvirt reports.

/// What libvirt tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The domain is about to start; nothing has been done for it.
    Prepare,
    /// QEMU's command line is made, and QEMU is about to be executed.
    Start,
    /// QEMU runs.
    Started,
    /// QEMU is gone, or never came.
    Stopped,
    /// All that libvirt held for the domain is given back.
    Release,
    /// The domain is about to come from another host.
    Migrate,
    /// Everything else, known or not: none of our business. `restore` too: a guest from a saved image comes by `prepare` and
    /// `start` as well, and its QEMU by the wrapper, which can refuse it without harm to the image.
    Other,
}

impl Event {
    /// The event of an operation and a sub-operation.
    #[must_use]
    pub fn of(operation: &str, sub_operation: &str) -> Event {
        match (operation, sub_operation) {
            ("prepare", "begin") => Event::Prepare,
            ("start", "begin") => Event::Start,
            ("started", "begin") => Event::Started,
            ("stopped", "end") => Event::Stopped,
            ("release", "end") => Event::Release,
            ("migrate", "begin") => Event::Migrate,
            _ => Event::Other,
        }
    }
}
