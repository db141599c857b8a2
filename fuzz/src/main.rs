//! Feeds arbitrary bytes to one of the decoders of uplinkd or uplinkctl, the one that `FUZZ_DECODER` names:
//! `cargo xtask fuzz`.
#![no_main]

use std::env;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use uplinkctl::outside::any_reply;
use uplinkd::outside::DECODERS;

static DECODE: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = env::var("FUZZ_DECODER").unwrap_or_default();
    let all = || DECODERS.into_iter().chain([("reply", any_reply as fn(&[u8]))]);
    let names = || all().map(|(name, _)| name).collect::<Vec<_>>();
    let found = all().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("FUZZ_DECODER must be one of {:?}", names())).1
});

fuzz_target!(|bytes: &[u8]| DECODE(bytes));
