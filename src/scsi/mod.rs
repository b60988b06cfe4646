//! SCSI as far as a reader needs it: bytes to and from CDBs, sense data, INQUIRY, capacities.

mod capacity;
mod cdb;
mod inquiry;
mod luns;
mod sense;
mod status;
mod target_ports;

pub(crate) use capacity::{Capacity, READ_CAPACITY_10_LEN, READ_CAPACITY_16_LEN};
pub(crate) use cdb::{Cdb, VpdPage};
pub(crate) use inquiry::{BlockLimits, Characteristics, Identity, Inquiry, VpdList};
pub(crate) use luns::{LunAddress, parse_report_luns};
pub(crate) use sense::{Sense, SenseKey};
pub(crate) use status::Status;
pub(crate) use target_ports::{AccessState, PortIds};
