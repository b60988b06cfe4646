//! What a logical unit says of itself: INQUIRY and its vital product data pages (SPC-5 sections 6.6 and 7.7).

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

use super::VpdPage;

/// Standard INQUIRY data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inquiry {
    /// 0: a unit is connected; 3: there is none at this number.
    pub(crate) qualifier: u8,
    /// 0: a disk.
    pub(crate) device_type: u8,
    /// Whether REPORT TARGET PORT GROUPS is worth asking (TPGS: asymmetric access).
    pub(crate) asymmetric_access: bool,
    /// Vendor, product and revision, trimmed and joined by a space.
    pub(crate) product: String,
}

impl Inquiry {
    /// How much to ask for: all that is parsed here.
    pub(crate) const ALLOCATION: u16 = 36;

    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        // Old devices stop after the fifth byte; what is missing reads as blank.
        if data.len() < 5 {
            return Err(Error::new(
                ErrorKind::Protocol,
                format!("INQUIRY answered with {} bytes only", data.len()),
            ));
        }
        let text = |from: usize, to: usize| {
            let field = data.get(from..to.min(data.len())).unwrap_or_default();
            printable(field)
        };
        let fields = [text(8, 16), text(16, 32), text(32, 36)];
        Ok(Self {
            qualifier: data[0] >> 5,
            device_type: data[0] & 0x1f,
            asymmetric_access: data.get(5).is_some_and(|byte| byte & 0x30 != 0),
            product: fields
                .iter()
                .filter(|field| !field.is_empty())
                .cloned()
                .collect::<Vec<_>>()
                .join(" "),
        })
    }

    /// A direct-access block device that is there.
    pub(crate) fn is_disk(&self) -> bool {
        self.qualifier == 0 && self.device_type == 0
    }
}

/// Which device this is, whatever path leads to it: for noticing that another one answers after a reconnect.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Identity(Vec<u8>);

impl Identity {
    /// From a Device Identification page (0x83): the designators of the logical unit itself (association 0),
    /// but not the target ports', which differ from path to path.
    pub(crate) fn from_designators(page: &[u8]) -> Result<Option<Self>> {
        let mut rest = vpd_body(page, VpdPage::DeviceIdentification)?;
        let mut identity = Vec::new();
        while let [code_set, kind, _, length, tail @ ..] = rest {
            let length = usize::from(*length);
            let Some((designator, tail)) = tail.split_at_checked(length) else { break };
            let association = kind >> 4 & 3;
            if association == 0 {
                identity.extend([code_set & 0x0f, kind & 0x0f]);
                identity.extend(u8::try_from(length).unwrap_or(u8::MAX).to_be_bytes());
                identity.extend(designator);
            }
            rest = tail;
        }
        Ok(if identity.is_empty() { None } else { Some(Self(identity)) })
    }

    /// From a Unit Serial Number page (0x80).
    pub(crate) fn from_serial(page: &[u8]) -> Result<Option<Self>> {
        let serial = vpd_body(page, VpdPage::UnitSerialNumber)?;
        Ok(if serial.is_empty() { None } else { Some(Self(serial.to_vec())) })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.0.escape_ascii())
    }
}

/// The Block Limits page (0xB0), in logical blocks; 0 means that the device does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockLimits {
    /// The longest READ that is answered.
    pub(crate) maximum_transfer: u32,
    /// The longest READ that is answered without a delay.
    pub(crate) optimal_transfer: u32,
}

impl BlockLimits {
    pub(crate) fn parse(page: &[u8]) -> Result<Self> {
        let body = vpd_body(page, VpdPage::BlockLimits)?;
        let field = |at: usize| {
            let bytes = body.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
        };
        Ok(Self { maximum_transfer: field(4), optimal_transfer: field(8) })
    }
}

/// The Supported VPD Pages page (0x00), or that there is none to be believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VpdList(Option<Vec<u8>>);

impl VpdList {
    /// Every device with VPD pages lists this page and that of its identification (SPC-5 section 7.7.1): a list
    /// without them is wrong, and who knows where else.
    pub(crate) fn parse(page: &[u8]) -> Self {
        let codes = vpd_body(page, VpdPage::Supported).ok();
        let has = |codes: &&[u8], page: VpdPage| codes.contains(&(page as u8));
        let believed = codes.filter(|codes| {
            has(codes, VpdPage::Supported) && has(codes, VpdPage::DeviceIdentification)
        });
        Self(believed.map(<[u8]>::to_vec))
    }

    /// Whether the device may have the page.
    pub(crate) fn may_have(&self, page: VpdPage) -> bool {
        self.0.as_ref().is_none_or(|codes| codes.contains(&(page as u8)))
    }
}

/// The Block Device Characteristics page (0xB1; SBC-4 section 6.6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Characteristics {
    /// MEDIUM ROTATION RATE: `Some(0)` is a medium that does not rotate; `None` where the device does not say.
    pub(crate) rotation_rate: Option<u16>,
}

impl Characteristics {
    pub(crate) fn parse(page: &[u8]) -> Result<Self> {
        let body = vpd_body(page, VpdPage::BlockDeviceCharacteristics)?;
        let rate = body.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
        Ok(Self {
            rotation_rate: match rate {
                Some(1) => Some(0),
                Some(rate @ 0x0401..=0xfffe) => Some(rate),
                _ => None,
            },
        })
    }
}

/// The bytes behind the four of a page's header, as many as are there.
pub(super) fn vpd_body(data: &[u8], page: VpdPage) -> Result<&[u8]> {
    let [_, code, high, low, body @ ..] = data else {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!("VPD page 0x{:02x} answered with {} bytes only", page as u8, data.len()),
        ));
    };
    if *code != page as u8 {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!("asked for VPD page 0x{:02x}, got 0x{code:02x}", page as u8),
        ));
    }
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    Ok(&body[..length.min(body.len())])
}

/// ASCII without the padding, and without what could disturb a terminal.
fn printable(field: &[u8]) -> String {
    let text: String = field
        .iter()
        .map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { ' ' })
        .collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(code: u8, body: &[u8]) -> Vec<u8> {
        let mut data = vec![0, code];
        data.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        data.extend(body);
        data
    }

    #[test]
    fn names_are_trimmed_and_harmless() {
        let mut data = vec![0; 36];
        data[8..16].copy_from_slice(b"IET     ");
        data[16..32].copy_from_slice(b"VIRTUAL\x1b-DISK   ");
        data[32..36].copy_from_slice(b"0001");
        let inquiry = Inquiry::parse(&data).unwrap();
        assert_eq!(inquiry.product, "IET VIRTUAL -DISK 0001");
        assert!(inquiry.is_disk());
        data[0] = 0x7f;
        assert!(!Inquiry::parse(&data[..5]).unwrap().is_disk());
        assert!(Inquiry::parse(&data[..4]).is_err());
    }

    #[test]
    fn identity_is_of_the_unit_and_not_of_the_port() {
        let unit = [1, 3, 0, 2, 0xaa, 0xbb];
        let port = |number| [1, 0x14, 0, 4, 0, 0, 0, number];
        let by_port = |number| {
            let page = page(0x83, &[&unit[..], &port(number)].concat());
            Identity::from_designators(&page).unwrap().unwrap()
        };
        assert_eq!(by_port(1), by_port(2));
        assert_eq!(Identity::from_designators(&page(0x83, &port(1))).unwrap(), None);
        let cut = page(0x83, &unit[..5]);
        assert_eq!(Identity::from_designators(&cut).unwrap(), None);
    }

    #[test]
    fn the_wrong_page_is_an_error() {
        assert!(Identity::from_serial(&page(0x83, b"x")).is_err());
        assert!(Identity::from_serial(&[0, 0x80]).is_err());
    }

    #[test]
    fn a_wrong_list_of_pages_is_not_believed() {
        let list = VpdList::parse(&page(0, &[0, 0x80, 0x83]));
        assert!(list.may_have(VpdPage::UnitSerialNumber));
        assert!(!list.may_have(VpdPage::BlockLimits));
        for wrong in
            [page(0, &[]), page(0, &[0, 0x80]), page(0, &[0x83]), page(7, &[0, 0x83]), vec![]]
        {
            assert_eq!(VpdList::parse(&wrong), VpdList::default(), "{wrong:?}");
        }
        assert!(VpdList::default().may_have(VpdPage::BlockLimits));
    }

    #[test]
    fn rotation_rates() {
        let rate = |rate: u16| {
            let page = page(0xb1, &rate.to_be_bytes());
            Characteristics::parse(&page).unwrap().rotation_rate
        };
        assert_eq!(
            [rate(0), rate(1), rate(2), rate(7200), rate(0xffff)],
            [None, Some(0), None, Some(7200), None]
        );
        assert_eq!(Characteristics::parse(&page(0xb1, &[])).unwrap().rotation_rate, None);
        assert!(Characteristics::parse(&page(0xb0, &[0, 1])).is_err());
    }

    #[test]
    fn block_limits_of_any_length() {
        let mut body = vec![0; 60];
        body[4..8].copy_from_slice(&2048_u32.to_be_bytes());
        body[8..12].copy_from_slice(&256_u32.to_be_bytes());
        let limits = BlockLimits::parse(&page(0xb0, &body)).unwrap();
        assert_eq!(limits, BlockLimits { maximum_transfer: 2048, optimal_transfer: 256 });
        assert_eq!(BlockLimits::parse(&page(0xb0, &body[..6])).unwrap(), BlockLimits::default());
    }
}
