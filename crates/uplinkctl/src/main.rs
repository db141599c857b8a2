//! The program; all of it is in the library, so that the decoder of the daemon's replies can be fuzzed.

use std::process::ExitCode;

fn main() -> ExitCode {
    uplinkctl::main()
}
