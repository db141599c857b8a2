//! Reads from sysfs which PCI function is behind an interface, and which BlueField functions exist.
//!
//! sysfs shows the interfaces of the network namespace that it was mounted in. What is absent or
//! unreadable is `None`: most interfaces are no PCI functions, and a device may go at any moment.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use uplink_core::discover::is_dpu_port;
use uplink_core::snapshot::{PciAddress, PciPort};

/// Interfaces, by name.
const INTERFACES: &str = "/sys/class/net";

/// PCI functions, by address.
const FUNCTIONS: &str = "/sys/bus/pci/devices";

/// Class 02: network controllers.
const CLASS_NETWORK: u32 = 0x02;

/// Longer than anything that is read here: a number of 24 bits, an interface's port name.
const FILE_MAX_BYTES: u64 = 64;

/// More functions than any host has; the rest is not looked at.
const FUNCTIONS_MAX: usize = 4096;

/// The network function behind the interface of this name.
pub(super) fn behind(interface: &str) -> Option<PciPort> {
    let interface = Path::new(INTERFACES).join(interface);
    let device = interface.join("device");
    let target = fs::read_link(&device).ok()?;
    let address = address(target.file_name()?.to_str()?)?;
    let port = PciPort {
        port_name: read(&interface.join("phys_port_name")).filter(|name| !name.is_empty()),
        ..function(&device, address)?
    };
    (port.class >> 16 == CLASS_NETWORK).then_some(port)
}

/// The BlueField network functions on the bus, in its order, with or without an interface.
pub(super) fn dpu_ports() -> Vec<PciPort> {
    let mut ports: Vec<_> = fs::read_dir(FUNCTIONS)
        .into_iter()
        .flatten()
        .take(FUNCTIONS_MAX)
        .flatten()
        .filter_map(|entry| function(&entry.path(), address(entry.file_name().to_str()?)?))
        .filter(is_dpu_port)
        .collect();
    ports.sort();
    ports
}

/// An address as the bus writes it, and in no other way.
fn address(text: &str) -> Option<PciAddress> {
    text.parse().ok().filter(|address: &PciAddress| address.to_string() == text)
}

/// The function whose folder this is.
fn function(folder: &Path, address: PciAddress) -> Option<PciPort> {
    Some(PciPort {
        address,
        vendor: u16::try_from(hexadecimal(&read(&folder.join("vendor"))?)?).ok()?,
        device: u16::try_from(hexadecimal(&read(&folder.join("device"))?)?).ok()?,
        class: hexadecimal(&read(&folder.join("class"))?)?,
        virtual_function: folder.join("physfn").symlink_metadata().is_ok(),
        port_name: None,
    })
}

/// A number such as `0x15b3`.
fn hexadecimal(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0x")?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(digits, 16).ok())?
}

/// The line in a file of sysfs.
fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text.trim_end().to_owned())
}

/// What a value may be, for tests with arbitrary bytes: an address is taken in the bus's spelling only.
#[cfg(any(test, fuzzing))]
pub(super) fn any_value(text: &str) {
    let spelling = address(text).map(|address| address.to_string());
    assert!(spelling.is_none_or(|spelling| spelling == text), "{text:?} is no address");
    let _ = hexadecimal(text.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bus_spelling_of_an_address_is_taken() {
        for good in ["0000:03:00.0", "0000:c1:1f.7", "10000:01:00.0"] {
            assert_eq!(address(good).map(|a| a.to_string()).as_deref(), Some(good));
        }
        for bad in ["", "virtio0", "3:0.0", "0000:03:00.+0", "0000:03:20.0", "0000:03:00.8"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers_need_their_prefix_and_nothing_else() {
        assert_eq!(hexadecimal("0x15b3"), Some(0x15b3));
        assert_eq!(hexadecimal("0x020000"), Some(0x02_0000));
        for bad in ["", "0x", "15b3", "0x+1", "0xfffffffff", "0x15b3 "] {
            assert_eq!(hexadecimal(bad), None, "{bad}");
        }
    }
}
