//! The hashes of directory indexes (kernel: `fs/ext4/hash.c`).

/// A way to hash names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The first one, replaced soon.
    Legacy,
    /// MD4 cut down to three rounds of eight steps; the default.
    HalfMd4,
    /// The Tiny Encryption Algorithm.
    Tea,
}

/// A way to hash names, with all that it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hasher {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Whether bytes count as unsigned: once an accident of the machine, now a flag in the superblock.
    pub unsigned: bool,
    /// The superblock's seed; all zeros stand for MD4's own.
    pub seed: [u32; 4],
}

/// The value that would mean the end of a directory, twice: never the hash of a name.
const END: u32 = 0xFFFF_FFFE;

impl Hasher {
    /// The hash of a name. Its lowest bit is always clear: in an index it marks a hash that began in the leaf before.
    pub fn hash(&self, name: &[u8]) -> u32 {
        self.hash_and_minor(name).0
    }

    /// The hash, and the minor hash that tells apart names with the same one.
    pub fn hash_and_minor(&self, name: &[u8]) -> (u32, u32) {
        let mut state = match self.seed {
            [0, 0, 0, 0] => [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476],
            seed => seed,
        };
        let (hash, minor) = match self.algorithm {
            Algorithm::Legacy => (self.legacy(name), 0),
            Algorithm::HalfMd4 => {
                for (at, chunk) in (0..).step_by(32).zip(name.chunks(32)) {
                    half_md4(&mut state, &self.words(chunk, name.len() - at));
                }
                (state[1], state[2])
            }
            Algorithm::Tea => {
                for (at, chunk) in (0..).step_by(16).zip(name.chunks(16)) {
                    tea(&mut state, &self.words(chunk, name.len() - at));
                }
                (state[0], state[1])
            }
        };
        match hash & !1 {
            END => (END - 2, minor),
            hash => (hash, minor),
        }
    }

    fn byte(&self, byte: u8) -> u32 {
        if self.unsigned { u32::from(byte) } else { byte as i8 as u32 }
    }

    fn legacy(&self, name: &[u8]) -> u32 {
        let (mut hash0, mut hash1) = (0x12A3_FE2D_u32, 0x37AB_E8F9_u32);
        for byte in name {
            let step = hash0 ^ self.byte(*byte).wrapping_mul(7_152_373);
            let mut hash = hash1.wrapping_add(step);
            if hash & 0x8000_0000 != 0 {
                hash = hash.wrapping_sub(0x7FFF_FFFF);
            }
            (hash0, hash1) = (hash, hash0);
        }
        hash0 << 1
    }

    /// Up to `4 * N` bytes as `N` words, padded with the length of all that is left (`str2hashbuf`).
    fn words<const N: usize>(&self, chunk: &[u8], left: usize) -> [u32; N] {
        // Names have at most 255 bytes, so the four copies of the length do not run into one another.
        let padding = (left as u32 & 0xFF).wrapping_mul(0x0101_0101);
        let mut words = [padding; N];
        for (word, bytes) in words.iter_mut().zip(chunk.chunks(4)) {
            *word =
                bytes.iter().fold(padding, |word, byte| self.byte(*byte).wrapping_add(word << 8));
        }
        words
    }
}

fn half_md4(state: &mut [u32; 4], input: &[u32; 8]) {
    const F: fn(u32, u32, u32) -> u32 = |x, y, z| z ^ (x & (y ^ z));
    const G: fn(u32, u32, u32) -> u32 = |x, y, z| (x & y).wrapping_add((x ^ y) & z);
    const H: fn(u32, u32, u32) -> u32 = |x, y, z| x ^ y ^ z;
    type Round = (fn(u32, u32, u32) -> u32, u32, [usize; 8], [u32; 4]);
    const ROUNDS: [Round; 3] = [
        (F, 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (G, 0x5A82_7999, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
        (H, 0x6ED9_EBA1, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, order, shifts) in ROUNDS {
        for (word, shift) in order.into_iter().zip(shifts.into_iter().cycle()) {
            let sum = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(input[word])
                .wrapping_add(constant)
                .rotate_left(shift);
            (a, b, c, d) = (d, sum, b, c);
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}

fn tea(state: &mut [u32; 4], input: &[u32; 4]) {
    let [a, b, c, d] = *input;
    let [mut b0, mut b1, ..] = *state;
    let mut sum = 0_u32;
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9E37_79B9);
        let mix = |y: u32, k0: u32, k1: u32| {
            (y << 4).wrapping_add(k0) ^ y.wrapping_add(sum) ^ (y >> 5).wrapping_add(k1)
        };
        b0 = b0.wrapping_add(mix(b1, a, b));
        b1 = b1.wrapping_add(mix(b0, c, d));
    }
    state[0] = state[0].wrapping_add(b0);
    state[1] = state[1].wrapping_add(b1);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `debugfs -R "dx_hash -h VERSION NAME"` prints, without a seed and with one.
    #[test]
    fn hashes_agree_with_debugfs() {
        const LONG: &[u8] = b"abcdefghijklmnopqrstuvwxyz012345";
        const LONGER: &[u8] = b"a-name-of-more-than-thirty-two-bytes-with-\\xff";
        let expected: [(Algorithm, &[u8], (u32, u32)); 13] = [
            (Algorithm::Legacy, b"a", (0xe74b_53e2, 0)),
            (Algorithm::Legacy, b"caf\xe9", (0x65f2_3bce, 0)),
            (Algorithm::Legacy, LONG, (0x8be2_2c02, 0)),
            (Algorithm::HalfMd4, b"a", (0xd5fa_7d7a, 0xacb4_8187)),
            (Algorithm::HalfMd4, b"foo.conf", (0x47b9_7fe4, 0x4e16_092a)),
            (Algorithm::HalfMd4, b"caf\xe9", (0x9be4_a372, 0xc33d_4f19)),
            (Algorithm::HalfMd4, LONG, (0x1964_3b1a, 0xdde3_a0bf)),
            (Algorithm::HalfMd4, LONGER, (0x1a69_9a9c, 0x0b85_107d)),
            (Algorithm::Tea, b"a", (0x6d0e_a4c0, 0xc189_22df)),
            (Algorithm::Tea, b"foo.conf", (0xbdbd_37c0, 0xa4cb_43f4)),
            (Algorithm::Tea, b"caf\xe9", (0x84b3_a194, 0x1cf7_1779)),
            (Algorithm::Tea, LONG, (0xe78c_76dc, 0x94dd_872b)),
            (Algorithm::Tea, LONGER, (0xfef9_5f14, 0x1e1e_c0fd)),
        ];
        for (algorithm, name, hash) in expected {
            let hasher = Hasher { algorithm, unsigned: false, seed: [0; 4] };
            assert_eq!(hasher.hash_and_minor(name), hash, "{algorithm:?} {}", name.escape_ascii());
        }
        // The seed is a UUID, taken as four little-endian words.
        let seed = [0x7856_3412, 0xf0de_bc9a, 0x7856_3412, 0xf0de_bc9a];
        let hasher = Hasher { algorithm: Algorithm::HalfMd4, unsigned: false, seed };
        assert_eq!(hasher.hash_and_minor(b"foo.conf"), (0x7001_a990, 0xbac5_ccc4));
    }
}
