//! Reads and writes files. Reading copes with files that are missing, huge, or owned by other users.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags};

/// Opens a regular file for reading. A FIFO does not block the call; a link, a device and a directory are errors. Every file that
/// the program finds by itself is opened here.
///
/// # Errors
/// What the kernel says, ELOOP for a link, or `InvalidData` for anything else that is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(path, nix::libc::O_NOFOLLOW)
}

/// [`open`] that follows links, for directories in which only root writes.
fn open_behind_links(path: &Path) -> io::Result<File> {
    open_with(path, 0)
}

fn open_with(path: &Path, flags: i32) -> io::Result<File> {
    let flags = flags | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    #[expect(clippy::disallowed_methods, reason = "the one place that opens files for reading")]
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(untrusted("it is not a regular file")) }
}

/// The first `limit` bytes of a regular file as text; `None` where it cannot be read, or is a link. Cut UTF-8 at the end is
/// dropped.
#[must_use]
pub fn head(path: &Path, limit: usize) -> Option<String> {
    text_of(open(path).ok()?, limit)
}

/// [`head`] of a configuration file, which an administrator may have replaced by a link.
#[must_use]
pub fn head_of_configuration(path: &Path, limit: usize) -> Option<String> {
    text_of(open_behind_links(path).ok()?, limit)
}

/// [`head`] as bytes.
#[must_use]
pub fn bytes(path: &Path, limit: usize) -> Option<Vec<u8>> {
    bytes_of(open(path).ok()?, limit)
}

fn bytes_of(file: File, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(limit.min(64 * 1024));
    file.take(limit as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn text_of(file: File, limit: usize) -> Option<String> {
    match String::from_utf8(bytes_of(file, limit)?) {
        Ok(text) => Some(text),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            String::from_utf8(error.into_bytes().get(..valid)?.to_vec()).ok()
        }
    }
}

/// Whether a path is in the layers of a container, or of an image that is started (an overlay file system).
#[must_use]
pub fn is_in_overlay(path: &Path) -> bool {
    /// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
    const OVERLAY: u64 = 0x794c_7630;
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(OVERLAY))
}

/// The names in a directory, sorted; none where it cannot be read. Names that are not UTF-8 are left out.
#[must_use]
pub fn names(directory: &Path) -> Vec<String> {
    // Dropping a std::fs::ReadDir panics where the kernel says that it could not close the directory.
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty()).and_then(Dir::new);
    let entries = opened.into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str().map(str::to_owned).ok());
    let mut names: Vec<String> = names.filter(|name| name != "." && name != "..").collect();
    names.sort();
    names
}

/// The last component of what a symbolic link points to.
#[must_use]
pub fn link_name(link: &Path) -> Option<String> {
    std::fs::read_link(link).ok()?.file_name()?.to_str().map(str::to_owned)
}

/// The metadata of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The name is a symbolic link.
    pub link: bool,
    /// When the name itself was last changed, seconds since the epoch: for a link not what it leads to (st_ctime).
    pub changed: u64,
    /// See [`is_executable`].
    pub executable: bool,
}

/// The metadata of a path; `None` where it does not exist.
#[must_use]
pub fn entry(path: &Path) -> Option<Entry> {
    let own = std::fs::symlink_metadata(path).ok()?;
    let changed = u64::try_from(own.ctime()).unwrap_or(0);
    Some(Entry { link: own.is_symlink(), changed, executable: is_executable(path) })
}

/// Whether a path leads to a regular file with an execute bit, which is what libvirt checks (`virFileIsExecutable`).
#[must_use]
pub fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0)
}

/// Whether every user may read a file; true where there is none.
#[must_use]
pub fn is_public(path: &Path) -> bool {
    std::fs::metadata(path).map_or(true, |file| file.mode() & 0o004 != 0)
}

/// Where a path leads in the end, all links resolved.
#[must_use]
pub fn target(path: &Path) -> Option<String> {
    std::fs::canonicalize(path).ok()?.to_str().map(str::to_owned)
}

/// Whether a regular file contains these bytes; links are followed.
#[must_use]
pub fn contains(path: &Path, wanted: &[u8]) -> bool {
    const MOST: u64 = 256 << 20;
    let mut bytes = Vec::new();
    let read = open_behind_links(path).and_then(|file| file.take(MOST).read_to_end(&mut bytes));
    read.is_ok() && bytes.windows(wanted.len()).any(|found| found == wanted)
}

/// The SELinux label of what a path leads to; none where the file system has none.
#[must_use]
pub fn label(path: &Path) -> Option<String> {
    let mut buffer = [0u8; 512];
    let length = rustix::fs::getxattr(path, "security.selinux", &mut buffer).ok()?;
    let label = std::str::from_utf8(buffer.get(..length)?).ok()?;
    Some(label.trim_end_matches('\0').to_owned())
}

/// Reads a whole file that only root may have written: a regular file, owned by uid 0, not writable by others, no hard link
/// where other users can make one, at most `limit` bytes. The checks use the open descriptor, so that the file cannot be
/// replaced between check and read.
///
/// # Errors
/// What the kernel says, or `InvalidData` with what is wrong about the file.
pub fn read_trusted(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    let (file, length) = open_trusted(path)?;
    file.take(limit + 1).read_to_string(&mut text)?;
    match text.len() as u64 {
        read if read > limit => Err(untrusted("it is too large")),
        read if read < length => Err(untrusted("it ends early")),
        _ => Ok(text),
    }
}

/// The first `limit` bytes of a file that only root may have written; see [`read_trusted`].
#[must_use]
pub fn head_trusted(path: &Path, limit: usize) -> Option<String> {
    text_of(open_trusted(path).ok()?.0, limit)
}

/// The file and its length, bytes.
fn open_trusted(path: &Path) -> io::Result<(File, u64)> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    if metadata.uid() != 0 {
        return Err(untrusted("it does not belong to root"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(untrusted("users other than root may write to it"));
    }
    // Who may write to a directory can make a hard link there of another file of root's.
    if metadata.nlink() > 1 && !only_root_changes(path) {
        return Err(untrusted("it is a hard link in a directory that users other than root may write to"));
    }
    Ok((file, metadata.len()))
}

/// Whether only root can change which file an absolute path names. A symbolic link among the directories counts as a no.
fn only_root_changes(path: &Path) -> bool {
    path.is_absolute() && path.ancestors().skip(1).all(|directory| check_trusted_directory(directory).is_ok())
}

fn untrusted(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Reads up to one byte more than `limit`, so that the caller can tell that the content is too large. `bytes` also holds what
/// was read before an error.
///
/// # Errors
/// What the kernel says.
pub fn read_past(input: impl Read, limit: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    input.take(limit as u64 + 1).read_to_end(bytes).map(drop)
}

/// Opens a file for reading and writing.
///
/// # Errors
/// What the kernel says.
pub fn open_for_update(path: &Path) -> io::Result<File> {
    #[expect(clippy::disallowed_methods, reason = "/dev/null is not a regular file")]
    File::options().read(true).write(true).open(path)
}

/// Makes a directory that belongs to root and that all users may read, if it does not exist.
///
/// # Errors
/// What the kernel says, or `InvalidData` where other users can write to the directory, or it is not a directory.
pub fn trusted_directory(path: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    check_trusted_directory(path)?;
    // The umask, or another program, may have removed permissions that QEMU needs.
    if std::fs::symlink_metadata(path)?.mode() & 0o755 != 0o755 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Checks that only root can change the entries of a directory.
///
/// # Errors
/// What the kernel says, or `InvalidData` where other users can.
pub fn check_trusted_directory(path: &Path) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.is_dir() && metadata.uid() == 0 && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(untrusted("not a directory, or writable by users other than root"))
}

/// Makes a directory that only this user may read, and its parents.
///
/// # Errors
/// What the kernel says, or `InvalidData` where other users may read the directory, or it is not a directory.
pub fn private_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let metadata = std::fs::symlink_metadata(path)?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_dir() && own && metadata.mode() & 0o777 == 0o700 {
        return Ok(());
    }
    Err(untrusted("not a directory, or accessible to other users"))
}

/// Waits until the disk has what was written to a file.
///
/// # Errors
/// What the kernel says.
pub fn sync(path: &Path) -> io::Result<()> {
    open(path)?.sync_all()
}

/// Replaces a file in one step: a reader sees the old content or the new, and a full disk leaves the old.
///
/// # Errors
/// What the kernel says.
pub fn replace(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    replace_with(path, |temporary| write_new(temporary, content, mode))
}

/// Like [`replace`], and keeps the file's owner and mode.
///
/// # Errors
/// What the kernel says, or `InvalidData` where it is not a regular file.
pub fn replace_kept(path: &Path, content: &str) -> io::Result<()> {
    let old = std::fs::symlink_metadata(path)?;
    if !old.is_file() {
        return Err(untrusted("it is not a regular file"));
    }
    replace_with(path, |temporary| {
        write_new(temporary, content, old.mode() & 0o7777)?;
        let new = std::fs::symlink_metadata(temporary)?;
        let change = |wanted: u32, has: u32| (wanted != has).then_some(wanted);
        // Only root may give files away, and who runs as the owner need not.
        match (change(old.uid(), new.uid()), change(old.gid(), new.gid())) {
            (None, None) => Ok(()),
            (uid, gid) => std::os::unix::fs::lchown(temporary, uid, gid),
        }
    })
}

fn replace_with(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary(path);
    let result = write(&temporary).and_then(|()| std::fs::rename(&temporary, path));
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// Where [`replace`] writes the new content first, a name for this file only. A killed process leaves at most this one file,
/// and the next one replaces it.
#[must_use]
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

fn write_new(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC;
    // A file of this name is left over from a process that was killed.
    let _ = std::fs::remove_file(path);
    #[expect(clippy::disallowed_methods, reason = "the one place that makes files, and only new ones")]
    let mut file = File::options().write(true).create_new(true).mode(mode).custom_flags(flags).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    // Not synced: the disk could take longer than the domain's lock may be held, and the reader refuses a file that a crash
    // has emptied.
    file.write_all(content.as_bytes())
}

/// Removes a file. A missing file is no error.
///
/// # Errors
/// What the kernel says.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "the test creates the files that it reads")]

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_no_open_blocks() {
        let directory = std::env::temp_dir().join(format!("viommu-open-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let at = |name: &str| directory.join(name);
        std::fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRUSR).unwrap();
        assert_eq!(head(&at("file"), 9).as_deref(), Some("text"));
        assert_eq!(head_of_configuration(&at("link"), 9).as_deref(), Some("text"));
        assert!(contains(&at("link"), b"ex"));
        for name in ["link", "device", "fifo", "", "none"] {
            assert_eq!(head(&at(name), 9), None, "{name}");
            assert!(open(&at(name)).is_err(), "{name}");
            assert!(read_trusted(&at(name), 9).is_err(), "{name}");
        }
        for name in ["device", "fifo", ""] {
            assert_eq!(head_of_configuration(&at(name), 9), None, "{name}");
            assert!(!contains(&at(name), b""), "{name}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
