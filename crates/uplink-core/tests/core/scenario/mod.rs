//! What the daemon does on a host, told by behaviour.

mod aside;
mod boot;
mod comeback;
mod contest;
mod discover;
mod gateways;
mod guests;
mod links;
mod loss;
mod managers;
mod multipath;
mod pace;
mod paths;
mod pin;
mod refusals;
mod reload;
mod restart;
mod routers;
mod silence;
mod sockets;
mod stall;
mod targets;
mod ties;
