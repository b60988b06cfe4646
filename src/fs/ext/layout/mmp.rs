//! The block of the multiple-mount protection (kernel: `struct mmp_struct`).

use super::le32;

const MAGIC: u32 = 0x004D_4D50;
const SEQ_CLEAN: u32 = 0xFF4D_4D50;

/// The bytes that say who has the file system mounted.
pub const SIZE: usize = 1024;

/// Who has the file system mounted, by the block's word: the name of a host. `None` for nobody.
pub fn mounted_by(block: &[u8]) -> Option<String> {
    if le32(block, 0)? != MAGIC || le32(block, 4)? == SEQ_CLEAN {
        return None;
    }
    let name = block.get(16..80)?;
    let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Some(String::from_utf8_lossy(&name[..len]).into_owned())
}
