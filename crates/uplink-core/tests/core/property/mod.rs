//! The promises under random events.

mod draw;
mod event;
mod host;
mod paths;
mod plan;
mod soak;

use proptest::test_runner::Config;

/// `PROPTEST_CASES` sets the number of cases; a failure prints its seed and its smallest form.
fn config(cases: u32) -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(cases);
    Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() }
}
