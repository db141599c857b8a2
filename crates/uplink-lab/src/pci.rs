//! A PCI identity for an interface that has none.
//!
//! A veth has no hardware. What a daemon reads in sysfs to find out is laid over that host's own
//! `/sys/class/net` and `/sys/bus/pci/devices`: afterwards only interfaces that were given an
//! identity have an entry there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::error::{Doing, Result};
use crate::host::{Host, tmpfs};

const NET: &str = "/sys/class/net";
const PCI: &str = "/sys/bus/pci/devices";

/// A function on a host's PCI bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciFunction {
    /// Its address, such as `0000:03:00.0`.
    pub address: String,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class, 24 bits.
    pub class: u32,
    /// For a virtual function: the address of the physical one.
    pub physfn: Option<String>,
}

impl PciFunction {
    /// A network function of a BlueField-3.
    #[must_use]
    pub fn bluefield(address: &str) -> Self {
        Self { address: address.to_owned(), vendor: 0x15b3, device: 0xa2dc, class: 0x02_0000, physfn: None }
    }
}

impl Host {
    /// Puts a function on the bus, with no interface.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn plug_pci(&self, function: &PciFunction) -> Result<()> {
        let function = function.clone();
        self.run(move || {
            cover()?;
            let folder = Path::new(PCI).join(&function.address);
            make(&folder.join("net"))?;
            for (file, text) in [
                ("vendor", format!("{:#06x}\n", function.vendor)),
                ("device", format!("{:#06x}\n", function.device)),
                ("class", format!("{:#08x}\n", function.class)),
            ] {
                let path = folder.join(file);
                fs::write(&path, text).doing(format!("write {}", path.display()))?;
            }
            match &function.physfn {
                Some(parent) => link(&format!("../{parent}"), &folder.join("physfn")),
                None => Ok(()),
            }
        })
    }

    /// Takes a function off the bus.
    ///
    /// # Errors
    /// If it is not there.
    pub fn unplug_pci(&self, address: &str) -> Result<()> {
        let folder = Path::new(PCI).join(address);
        self.run(move || remove(&folder))
    }

    /// Says that an interface, whether it exists yet or not, belongs to a function on the bus, and
    /// which port of it it is, if the driver says so.
    ///
    /// # Errors
    /// If the interface has an identity already.
    pub fn bind_pci(&self, interface: &str, address: &str, port: Option<&str>) -> Result<()> {
        let (interface, address) = (interface.to_owned(), address.to_owned());
        let port = port.map(|port| format!("{port}\n"));
        self.run(move || {
            cover()?;
            let folder = Path::new(NET).join(&interface);
            make(&folder)?;
            link(&format!("../../../bus/pci/devices/{address}"), &folder.join("device"))?;
            if let Some(port) = port {
                let path = folder.join("phys_port_name");
                fs::write(&path, port).doing(format!("write {}", path.display()))?;
            }
            make(&Path::new(PCI).join(address).join("net").join(interface))
        })
    }

    /// Takes an interface's identity away; the function stays on the bus.
    ///
    /// # Errors
    /// If it has none.
    pub fn unbind_pci(&self, interface: &str) -> Result<()> {
        let folder = Path::new(NET).join(interface);
        let interface = interface.to_owned();
        self.run(move || {
            remove(&folder.join("device/net").join(interface))?;
            remove(&folder)
        })
    }

    /// Makes an interface port 0 of a BlueField at this PCI address.
    ///
    /// # Errors
    /// As [`Self::plug_pci`] and [`Self::bind_pci`].
    pub fn give_pci(&self, interface: &str, address: &str) -> Result<()> {
        self.plug_pci(&PciFunction::bluefield(address))?;
        self.bind_pci(interface, address, Some("p0"))
    }
}

/// Lays empty folders over those of sysfs, once. On a machine without a PCI bus the whole of
/// `/sys/bus` is covered.
fn cover() -> Result<()> {
    let ours = Path::new("/run/lab-pci");
    if ours.exists() {
        return Ok(());
    }
    tmpfs(NET)?;
    if Path::new(PCI).exists() {
        tmpfs(PCI)?;
    } else {
        tmpfs("/sys/bus")?;
        make(Path::new(PCI))?;
    }
    fs::write(ours, "").doing("write /run/lab-pci")
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).doing(format!("make {}", folder.display()))
}

fn link(target: &str, path: &Path) -> Result<()> {
    symlink(target, path).doing(format!("link {}", path.display()))
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).doing(format!("remove {}", folder.display()))
}
