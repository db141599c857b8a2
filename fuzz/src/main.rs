//! Feeds arbitrary bytes to one of uplinkd's decoders, the one that `FUZZ_DECODER` names:
//! `cargo xtask fuzz`.
#![no_main]

use std::env;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use uplinkd::outside::DECODERS;

static DECODE: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = env::var("FUZZ_DECODER").unwrap_or_default();
    let found = DECODERS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("FUZZ_DECODER must be one of {:?}", DECODERS.map(|(name, _)| name))).1
});

fuzz_target!(|bytes: &[u8]| DECODE(bytes));
