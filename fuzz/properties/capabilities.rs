//! libvirt's capability cache: nothing is made up, and what follows the facts has no say.

use viommu::host::capcache::parse;

pub(crate) fn check(data: &[u8]) {
    // As the file is read: what is cut within a character is dropped.
    let text = match std::str::from_utf8(data) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&data[..error.valid_up_to()]).unwrap(),
    };
    let Some((emulator, libvirt)) = parse(text) else { return };
    assert!(!emulator.path.is_empty() && text.contains(&emulator.path));
    assert!(emulator.arch.as_ref().is_none_or(|arch| text.contains(arch)));
    assert!(libvirt.is_none() || text.contains("<selfvers>"));
    for flag in emulator.flags.iter().flatten() {
        assert!(flag.contains("iommu") && text.contains(&format!("<flag name='{flag}'/>")));
    }
    if emulator.arch.is_some() {
        let longer = format!("{text}\n<flag name='intel-iommu.later'/>\n<emulator>/other</emulator>\n");
        assert_eq!(parse(&longer), Some((emulator, libvirt)));
    }
}
