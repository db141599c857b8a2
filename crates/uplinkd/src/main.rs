//! The program; all of it is in the library, so that the decoders of outside bytes can be fuzzed.

use std::process::ExitCode;

fn main() -> ExitCode {
    uplinkd::main()
}
