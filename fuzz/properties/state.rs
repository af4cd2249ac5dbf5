//! The state file: a valid file is equal after it was written again; every other file is refused.

use viommu::domain::Uuid;
use viommu::note::Code;
use viommu::state::{GuestState, MAX_AGE, Record};

/// The guest and the time in the seeds.
const UUID: &str = "8d6f2c4e-3b0a-4f7e-9a51-2f6f0c1d7e93";
const NOW: u64 = 1_000;

pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let uuid: Uuid = UUID.parse().unwrap();
    match GuestState::parse(text, uuid, NOW) {
        Ok(state) => {
            assert_eq!(state.uuid, UUID);
            assert!(state.written <= NOW && NOW - state.written <= MAX_AGE);
            assert_eq!(GuestState::parse(&state.to_json(), uuid, NOW).unwrap(), state);
            assert!(
                GuestState::parse(text, uuid, state.written + MAX_AGE + 1).is_err(),
                "an expired state was accepted"
            );
            let other = "00000000-3b0a-4f7e-9a51-2f6f0c1d7e93".parse().unwrap();
            assert!(GuestState::parse(text, other, NOW).is_err(), "another guest's state was accepted");
        }
        Err(note) => assert_eq!(note.code, Code::StateInvalid),
    }
    if let Ok(record) = serde_json::from_str::<Record>(text) {
        let again = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&again).unwrap(), record);
    }
}
