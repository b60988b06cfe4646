//! SCSI as far as a reader needs it: bytes to and from CDBs, sense data, INQUIRY, capacities.
