//! `ipvsadm`: side by side with the real one, over a director in memory, and with whatever anybody may type.

mod captures;
mod changes;
mod files;
mod memory;
mod properties;
mod same_as_ipvsadm;
mod same_traffic;
