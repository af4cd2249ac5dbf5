//! libvirt's capability cache: the result holds only values of the file, and the text after the facts has no effect.

use viommu::host::capcache::parse;

pub(crate) fn check(data: &[u8]) {
    // The code reads the file in the same way: it drops an incomplete character at the cut.
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
