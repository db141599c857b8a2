//! The decoder of the daemon's replies, for fuzzing (`cargo xtask fuzz reply`), and to replay what it found.

use uplink_core::wire::GetStatus;

use crate::{client, metrics, show};

/// A reply without its NUL. Panics if something is wrong with what was made of it.
pub fn any_reply(bytes: &[u8]) {
    let Ok(GetStatus { status }) = client::parameters(bytes).and_then(client::decode) else { return };
    let shown = show::status(&status);
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "it could control a terminal: {shown:?}");
    let metrics = metrics::text(Some(status));
    let ours = |line: &str| line.starts_with("uplinkd_") || line.starts_with("# ");
    assert!(metrics.ends_with("# EOF\n") && metrics.lines().all(ours), "no metrics of ours: {metrics:?}");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Every file of the corpus, and each of its beginnings and with a bit changed.
    #[test]
    fn the_corpus_is_survived() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/reply");
        let files: Vec<_> = fs::read_dir(corpus).unwrap().collect();
        assert!(!files.is_empty(), "there is no corpus");
        for file in files {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            any_reply(&bytes);
            for at in 0..bytes.len() {
                any_reply(&bytes[..at]);
                let mut other = bytes.clone();
                other[at] ^= 1 << (at % 8);
                any_reply(&other);
            }
        }
    }
}
