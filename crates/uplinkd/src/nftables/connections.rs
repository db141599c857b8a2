//! Takes marks of ours off the connections that bear them, when they mean nothing any more: lest whoever
//! uses these bits later takes them for his, and because a connection with bits that are not ours now
//! would not be marked anew.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use uplink_core::marks::OwnMarks;
use uplink_core::snapshot::{Family, Mark};

use super::{Nftables, wire};
use crate::netlink::RequestError;

impl Nftables {
    /// Takes off the marks of this table that have other bits than `bits`. As many messages as there are
    /// such connections, of some microseconds each.
    pub(super) fn take_off(&mut self, marks: &OwnMarks, bits: Option<u32>) {
        let stale = marks.uplinks.iter().map(|marked| marked.mark).filter(|mark| Some(mark.mask) != bits);
        for mark in stale {
            // A kernel without these messages (`nf_conntrack_netlink`) lets them keep it until they end.
            if let Err(error) = self.take_off_one(marks.family, mark) {
                tracing::debug!(%mark, %error, "connections keep their mark");
            }
        }
    }

    fn take_off_one(&mut self, family: Family, mark: Mark) -> Result<(), RequestError> {
        let mut marked = Vec::new();
        self.ask(family, wire::GETCONNECTION, NLM_F_DUMP, &wire::connections_of(mark), |message| {
            marked.extend(wire::unmarked_connection(message.payload, mark.mask));
        })?;
        for connection in marked {
            // It may have ended.
            match self.ask(family, wire::NEWCONNECTION, NLM_F_ACK, &connection, |_| ()) {
                Ok(()) | Err(RequestError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
