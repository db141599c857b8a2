//! fping and a loop around it, in the manner of dpinger and its scripts.

use uplink_lab::{Host, Result};

use super::words;
use crate::stage::{GATEWAY, GATEWAY6, MGMT, MGMT_GATEWAY, MGMT_GATEWAY6, PORT, PORT_GATEWAY6};

const SCRIPT: &str = "/run/bench-fping.sh";

/// One gateway in one family: the least that does the job at all.
pub(crate) fn one(worker: &Host) -> Result<Vec<String>> {
    start(worker, &format!("watch 4 {PORT} {GATEWAY} 500 default via {GATEWAY} dev {PORT} metric 50\n"))
}

/// The questions that uplinkd asks: one loop for each gateway and family. Those of management decide
/// nothing.
pub(crate) fn four(worker: &Host) -> Result<Vec<String>> {
    start(
        worker,
        &format!(
            "watch 4 {PORT} {GATEWAY} 250 default via {GATEWAY} dev {PORT} metric 50 &\n\
             watch 6 {PORT} {PORT_GATEWAY6} 250 default via {GATEWAY6} dev {PORT} metric 50 &\n\
             watch 4 {MGMT} {MGMT_GATEWAY} 1000 &\n\
             watch 6 {MGMT} {MGMT_GATEWAY6} 1000 &\n\
             wait\n"
        ),
    )
}

/// Every line that fping prints and that is no answer is a loss.
fn start(worker: &Host, loops: &str) -> Result<Vec<String>> {
    let watch = "watch() {\n\
         \u{20}   family=$1 port=$2 gateway=$3 period=$4 up=0 good=0 bad=0\n\
         \u{20}   shift 4\n\
         \u{20}   ip -$family route del \"$@\" 2>/dev/null\n\
         \u{20}   fping -$family --loop --period=$period --timeout=$period --iface=$port $gateway 2>&1 |\n\
         \u{20}   while read -r line; do\n\
         \u{20}       case $line in\n\
         \u{20}       *bytes*) good=$((good + 1)) bad=0 ;;\n\
         \u{20}       *) bad=$((bad + 1)) good=0 ;;\n\
         \u{20}       esac\n\
         \u{20}       [ $# -gt 0 ] || continue\n\
         \u{20}       if [ $up = 0 ] && [ $good -ge 3 ]; then ip -$family route replace \"$@\" && up=1; fi\n\
         \u{20}       if [ $up = 1 ] && [ $bad -ge 3 ]; then ip -$family route del \"$@\"; up=0; fi\n\
         \u{20}   done\n\
         }\n";
    worker.write(SCRIPT, format!("{watch}{loops}"))?;
    Ok(words(&["sh", SCRIPT]))
}
