//! Feeds arbitrary bytes to the decoders of the daemon and of its client.

use std::fs;

use clap::Args;

use crate::run::{Failure, cargo, program, root, step};

/// Instruments the code for libFuzzer: counters of edges, and the numbers that are compared. All of it
/// are flags of the stable compiler.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Which decoder, and how long.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// The decoder, a folder in fuzz/corpus: packet, netlink, nftables, sockets, file, config, memory, control or reply
    decoder: String,
    /// For how long
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

impl Fuzz {
    /// Builds the fuzzer and runs it from the committed corpus; what it finds is in `fuzz/found`.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let fuzz = root().join("fuzz");
        // The target is named so that the flags are for the fuzzer alone, and not for build scripts.
        let target = program("rustc", ["--print", "host-tuple"]).output()?.trim().to_owned();
        step("build the fuzzer", || {
            let build = cargo(["build", "--release", "--target", &target]);
            build.within(&fuzz).env("RUSTFLAGS", COVERAGE).run()
        })?;
        let corpus = fuzz.join("corpus").join(&self.decoder);
        let found = fuzz.join("found").join(&self.decoder);
        fs::create_dir_all(&found)
            .map_err(|error| Failure::Other(format!("failed to make {}: {error}", found.display())))?;
        let time = format!("-max_total_time={}", self.seconds);
        let artifacts = format!("-artifact_prefix={}/crash-", found.display());
        let fuzzer = fuzz.join("target").join(&target).join("release/fuzz");
        let folders = [found.display().to_string(), corpus.display().to_string()];
        let options = ["-print_final_stats=1", "-timeout=60", "-max_len=4096", "-verbosity=0"];
        step(&format!("fuzz {} for {} s", self.decoder, self.seconds), || {
            program(&fuzzer, options)
                .args([&time, &artifacts])
                .args(&folders)
                .env("FUZZ_DECODER", &self.decoder)
                .run()
        })
    }
}
