//! What a prefix cache holds as routers know it: chains of blocks of tokens.
//!
//! A block is as long as [`PrefixCache::interval`](crate::PrefixCache::interval). The state after the n-th block of a prompt is
//! reported as that block, with the block before it as its parent. States at other positions, such as the end of a prompt, are not
//! reported: the cache may hold more than a router knows.

use bytemuck::cast_slice;

/// A block: the last tokens of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// Names the whole prefix: the first 8 bytes of the BLAKE3 digest of its tokens, 32-bit little-endian words, as a
    /// little-endian number. The same on every machine.
    pub hash: u64,
    /// The block before it; None for the first of a prompt.
    pub parent: Option<u64>,
    /// The tokens of the block.
    pub tokens: &'a [u32],
}

impl Block<'_> {
    /// The last block of a prefix, if the prefix ends where a block ends.
    pub fn last_of(prefix: &[u32], block_size: usize) -> Option<Block<'_>> {
        if block_size == 0 || prefix.is_empty() || !prefix.len().is_multiple_of(block_size) {
            return None;
        }
        let (before, tokens) = prefix.split_at(prefix.len() - block_size);
        let parent = (!before.is_empty()).then(|| block_hash(before));
        Some(Block { hash: block_hash(prefix), parent, tokens })
    }
}

/// See [`Block::hash`].
fn block_hash(prefix: &[u32]) -> u64 {
    let digest = if cfg!(target_endian = "little") {
        blake3::hash(cast_slice(prefix))
    } else {
        let mut hasher = blake3::Hasher::new();
        for token in prefix {
            hasher.update(&token.to_le_bytes());
        }
        hasher.finalize()
    };
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_chains() {
        let tokens: Vec<u32> = (100..112).collect();
        let first = Block::last_of(&tokens[..4], 4).unwrap();
        let second = Block::last_of(&tokens[..8], 4).unwrap();
        assert_eq!((first.parent, first.tokens), (None, &tokens[..4]));
        assert_eq!((second.parent, second.tokens), (Some(first.hash), &tokens[4..8]));
        for (prefix, block_size) in [(&tokens[..10], 4), (&tokens[..0], 4), (&tokens[..4], 0), (&tokens[..3], 4)] {
            assert_eq!(Block::last_of(prefix, block_size), None);
        }
    }

    #[test]
    fn names_depend_on_the_order_and_are_the_same_everywhere() {
        assert_ne!(block_hash(&[1, 2]), block_hash(&[2, 1]));
        // The BLAKE3 digest of 01000000 02000000 03000000.
        assert_eq!(block_hash(&[1, 2, 3]), 0x20cb_7c4a_90f4_07df);
    }
}
