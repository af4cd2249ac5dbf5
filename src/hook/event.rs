//! The events that libvirt reports.

/// An event of a domain's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The domain is about to start; nothing has been done for it.
    Prepare,
    /// libvirt has made QEMU's command line and is about to execute QEMU.
    Start,
    /// QEMU runs.
    Started,
    /// QEMU has ended, or was not started.
    Stopped,
    /// libvirt has released the domain's resources.
    Release,
    /// The domain is about to arrive from another host.
    Migrate,
    /// Any other event; the hook ignores it. `restore` too: a guest from a saved image passes `prepare` and `start` as well, and
    /// the wrapper can refuse its QEMU without harm to the image.
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

    /// Whether the guest starts, or arrives, only if the hook lets it pass.
    #[must_use]
    pub fn can_refuse(self) -> bool {
        matches!(self, Event::Prepare | Event::Start | Event::Migrate)
    }
}
