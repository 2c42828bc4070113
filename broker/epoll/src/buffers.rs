//! The memory that sockets are received into: blocks in which what arrives lies packed.
//!
//! Small messages of many sockets then share the cache lines and pages that a buffer for each
//! would spread them over, and a block that has been given back whole is the next to be filled,
//! while it is still in the cache. Knows which pieces the shard holds, so that a forged or stale
//! id gives nothing.

use ringtide_driver::BufferId;

/// One received chunk. `len` is 0 while the shard does not hold it.
#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    start: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Bytes that pieces have taken, from its start.
    filled: u32,
    /// Pieces that the shard holds.
    held: u32,
}

/// The blocks of one driver.
#[derive(Debug)]
pub(crate) struct Buffers {
    memory: Vec<u8>,
    block_bytes: u32,
    blocks: Vec<Block>,
    /// Empty blocks besides `current`; the one emptied last is taken next.
    free: Vec<u32>,
    /// The block that is being filled.
    current: u32,
    pieces: Vec<Piece>,
    free_pieces: Vec<u32>,
}

impl Buffers {
    /// `blocks` (at least 1) of `block_bytes` (at least 1) each, together below 4 GiB.
    pub(crate) fn new(blocks: u16, block_bytes: u32) -> Buffers {
        let (blocks, block_bytes) = (u32::from(blocks.max(1)), block_bytes.max(1));
        Buffers {
            memory: vec![0; blocks as usize * block_bytes as usize],
            block_bytes,
            blocks: vec![Block::default(); blocks as usize],
            free: (1..blocks).rev().collect(),
            current: 0,
            pieces: Vec::new(),
            free_pieces: Vec::new(),
        }
    }

    fn left(&self) -> u32 {
        self.block_bytes - self.blocks[self.current as usize].filled
    }

    /// True if something can be received.
    pub(crate) fn has_room(&self) -> bool {
        self.left() > 0 || !self.free.is_empty()
    }

    /// Where the next chunk goes: `most` bytes, fewer if no block has so many left. `None` if the
    /// shard holds everything.
    #[inline]
    pub(crate) fn room(&mut self, most: usize) -> Option<&mut [u8]> {
        let most = most.min(self.block_bytes as usize);
        if (self.left() as usize) < most
            && let Some(free) = self.free.pop()
        {
            self.current = free;
        }
        let len = most.min(self.left() as usize);
        let start = (self.current * self.block_bytes) as usize;
        let start = start + self.blocks[self.current as usize].filled as usize;
        if len == 0 { None } else { Some(&mut self.memory[start..start + len]) }
    }

    /// The first `len` bytes (at least 1) of the last `room` were received: the shard's from now
    /// on.
    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> BufferId {
        let len = len as u32;
        let block = &mut self.blocks[self.current as usize];
        let start = self.current * self.block_bytes + block.filled;
        block.filled += len;
        block.held += 1;
        let piece = Piece { start, len };
        let index = match self.free_pieces.pop() {
            Some(index) => {
                self.pieces[index as usize] = piece;
                index
            }
            None => {
                self.pieces.push(piece);
                (self.pieces.len() - 1) as u32
            }
        };
        BufferId { index, len }
    }

    fn range(&self, buffer: BufferId) -> std::ops::Range<usize> {
        match self.pieces.get(buffer.index as usize) {
            Some(piece) if buffer.len <= piece.len => {
                piece.start as usize..(piece.start + buffer.len) as usize
            }
            _ => 0..0,
        }
    }

    /// The bytes of a piece that the shard holds; empty for any other.
    #[inline]
    pub(crate) fn bytes(&self, buffer: BufferId) -> &[u8] {
        &self.memory[self.range(buffer)]
    }

    /// The same, to be changed.
    #[inline]
    pub(crate) fn bytes_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        let range = self.range(buffer);
        &mut self.memory[range]
    }

    /// Gives a piece back.
    #[inline]
    pub(crate) fn release(&mut self, index: u32) {
        let Some(piece) = self.pieces.get_mut(index as usize).filter(|piece| piece.len > 0) else {
            return;
        };
        piece.len = 0;
        let number = piece.start / self.block_bytes;
        self.free_pieces.push(index);
        let block = &mut self.blocks[number as usize];
        block.held -= 1;
        if block.held == 0 {
            block.filled = 0;
            if number != self.current {
                self.free.push(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(buffers: &mut Buffers, byte: u8, len: usize) -> BufferId {
        let room = buffers.room(len).unwrap();
        room.fill(byte);
        let len = room.len();
        buffers.take(len)
    }

    #[test]
    fn chunks_lie_packed_and_blocks_are_used_again() {
        let mut buffers = Buffers::new(2, 100);
        let first = put(&mut buffers, 1, 60);
        let second = put(&mut buffers, 2, 40);
        let third = put(&mut buffers, 3, 30);
        assert_eq!(buffers.bytes(first), [1; 60]);
        assert_eq!(buffers.bytes(second), [2; 40]);
        assert_eq!(buffers.bytes_mut(third), [3; 30]);
        buffers.release(first.index);
        assert_eq!(buffers.bytes(second), [2; 40], "its neighbour stays");
        assert!(buffers.bytes(first).is_empty());
        assert_eq!(buffers.room(80).unwrap().len(), 70, "the first block has a piece yet");
        buffers.release(second.index);
        assert_eq!(buffers.room(80).unwrap().len(), 80, "the first block is empty");
        buffers.release(second.index);
        let fourth = put(&mut buffers, 4, 80);
        assert_eq!(buffers.bytes(third), [3; 30]);
        assert_eq!(buffers.bytes(fourth), [4; 80]);
    }

    #[test]
    fn a_block_that_is_being_filled_begins_anew_when_all_of_it_is_back() {
        let mut buffers = Buffers::new(1, 64);
        for round in 0..200 {
            let one = put(&mut buffers, round, 40);
            let rest = put(&mut buffers, round, 40);
            assert_eq!(rest.len, 24);
            assert!(!buffers.has_room() && buffers.room(1).is_none());
            assert_eq!(buffers.bytes(one), [round; 40]);
            buffers.release(rest.index);
            buffers.release(one.index);
            assert!(buffers.has_room());
        }
    }

    #[test]
    fn an_id_that_is_not_held_gives_nothing() {
        let mut buffers = Buffers::new(1, 64);
        let held = put(&mut buffers, 9, 10);
        assert!(buffers.bytes(BufferId { index: held.index, len: 11 }).is_empty());
        assert!(buffers.bytes(BufferId { index: 7, len: 1 }).is_empty());
        buffers.release(7);
        buffers.release(held.index);
        buffers.release(held.index);
        assert!(buffers.bytes(held).is_empty());
        assert_eq!(put(&mut buffers, 1, 64).len, 64);
    }
}
