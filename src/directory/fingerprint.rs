//! Fingerprints: how a worker finds a key that it has verified before.
//!
//! A fingerprint is a keyed digest of a key's secret part, SipHash-1-3 of 128 bits, under a key that the worker has drawn
//! for itself and that never leaves it, as no fingerprint does. Whoever does not know that key cannot make a text that has
//! the fingerprint of another, nor learn anything from how long a look-up takes; so a text whose fingerprint is there is
//! one that was verified. It costs a thirtieth of the digest that is stored, which is compared once, when a key comes to a
//! worker for the first time.

use std::hash::{BuildHasher, RandomState};

/// Makes the fingerprints of one worker.
pub(super) struct Fingerprints {
    key: [u64; 2],
}

impl Fingerprints {
    /// Under a key of its own, from the system's randomness.
    pub(super) fn new() -> Self {
        let random = RandomState::new();
        Fingerprints { key: [random.hash_one(0_u8), random.hash_one(1_u8)] }
    }

    /// The fingerprint of a text.
    pub(super) fn of(&self, text: &[u8]) -> u128 {
        let [k0, k1] = self.key;
        let mut state = State {
            v0: k0 ^ 0x736f_6d65_7073_6575,
            v1: k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            v2: k0 ^ 0x6c79_6765_6e65_7261,
            v3: k1 ^ 0x7465_6462_7974_6573,
        };
        let (words, rest) = text.as_chunks::<8>();
        for word in words {
            state.take(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        state.take(u64::from_le_bytes(last) | (text.len() as u64) << 56);
        state.v2 ^= 0xee;
        let low = state.finish();
        state.v1 ^= 0xdd;
        u128::from(low) | u128::from(state.finish()) << 64
    }
}

struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    fn take(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    fn finish(&mut self) -> u64 {
        for _ in 0..3 {
            self.round();
        }
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn it_is_siphash_1_3_of_128_bits(key: [u64; 2], text: Vec<u8>) {
            let reference = siphasher::sip128::SipHasher13::new_with_keys(key[0], key[1]);
            let ours = Fingerprints { key }.of(&text);
            proptest::prop_assert_eq!(ours, reference.hash(&text).as_u128());
        }
    }

    #[test]
    fn every_worker_has_a_key_of_its_own_and_every_byte_counts() {
        let (one, other) = (Fingerprints::new(), Fingerprints::new());
        let text = [b'a'; 74];
        assert_ne!(one.of(&text), other.of(&text));
        for at in 0..text.len() {
            let mut changed = text;
            changed[at] = b'b';
            assert_ne!(one.of(&text), one.of(&changed));
            assert_ne!(one.of(&text), one.of(&text[..at]));
        }
    }
}
