//! The effects: files, limits, processes, the log. Knows nothing of domains or plans.

pub mod fs;
pub mod journal;
pub mod pinned;
pub mod process;
pub mod stderr;
