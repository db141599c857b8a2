//! What went into a core and what came out, to be given to another one.

use uplink_core::event::{Input, Output};
use uplink_core::time::Instant;
use uplink_core::{Core, Start};

/// All that one process saw and wanted.
pub(crate) struct Life {
    pub(crate) start: Start,
    pub(crate) turns: Vec<Turn>,
}

/// What one call of the core was given and gave.
pub(crate) struct Turn {
    pub(crate) at: Instant,
    pub(crate) inputs: Vec<Input>,
    pub(crate) outputs: Vec<Output>,
}

impl Life {
    /// Gives everything to a fresh core, by way of JSON; it must want the same things.
    pub(crate) fn replay(&self) {
        let mut core = Core::new(self.start.clone());
        for turn in &self.turns {
            let text = serde_json::to_string(&turn.inputs).expect("inputs can be written down");
            let inputs: Vec<Input> = serde_json::from_str(&text).expect("and read again");
            assert_eq!(inputs, turn.inputs);
            core.handle_all(inputs, turn.at);
            let outputs: Vec<Output> = std::iter::from_fn(|| core.poll_output()).collect();
            assert_eq!(outputs, turn.outputs, "another answer at {}", turn.at);
        }
    }
}
