//! The part of a body that is in memory: a queue of pieces, and a block that small pieces are collected in.
//!
//! A small [`Bytes`] may be all that keeps a large buffer alive, so it is copied; what is charged is then what is
//! allocated. A large one is taken as it is and charged by its length.

use std::collections::VecDeque;

use bytes::Bytes;

use super::BLOCK;
use super::depot::Budget;

/// Pieces below this many bytes are copied.
const SMALL: usize = 8 << 10;

/// The first block that collects small pieces, in bytes. The following ones are larger, up to [`BLOCK`].
const FIRST_BLOCK: u64 = 4 << 10;

/// Bytes in memory, and what of the budget they cost.
#[derive(Debug)]
pub(super) struct Memory {
    /// The first piece has its place here: most bodies have no other. Empty: there are no pieces.
    first: Piece,
    rest: VecDeque<Piece>,
    /// What follows the pieces; there is a block if `block_cost` is not 0.
    block: Vec<u8>,
    block_cost: usize,
    /// What pieces and block cost.
    held: u64,
    /// What was taken from the budget beyond `held`, for what was announced.
    spare: u64,
    /// Where reading goes on if what was read is kept: the piece (the block comes after the last), and the place in it.
    at: (usize, usize),
    /// What this body may cost, whatever others may.
    most: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self::of_at_most(u64::MAX)
    }
}

#[derive(Debug, Default)]
struct Piece {
    data: Bytes,
    cost: usize,
}

impl Memory {
    /// Of a body that may cost so much here, and no more than any.
    pub fn of_at_most(most: u64) -> Self {
        Self {
            first: Piece::default(),
            rest: VecDeque::new(),
            block: Vec::new(),
            block_cost: 0,
            held: 0,
            spare: 0,
            at: (0, 0),
            most,
        }
    }

    /// Takes the budget for `bytes` that will come; whether one body may have so much, and it was there.
    pub fn promise(&mut self, budget: &Budget, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.spare + self.room() as u64);
        let taken = self.fits(budget, more) && budget.take(more);
        if taken {
            self.spare += more;
        }
        taken
    }

    /// Takes `data`, or returns it if the budget does not allow for all of it. What was promised never comes back.
    pub fn push(&mut self, budget: &Budget, data: Bytes) -> Result<(), Bytes> {
        let len = data.len();
        if self.block_cost > 0 {
            return self.collect(budget, data);
        }
        let small = len < SMALL;
        if small && (self.spare > len as u64 || !self.first.data.is_empty()) {
            return self.collect(budget, data);
        }
        if !self.charge(budget, len) {
            return Err(data);
        }
        // The only piece so far, or all that was announced: a copy of just that length.
        let data = if small { Bytes::copy_from_slice(&data) } else { data };
        self.append(Piece { data, cost: len });
        Ok(())
    }

    /// Copies `data` behind what the block has, and the rest of it to a new block.
    fn collect(&mut self, budget: &Budget, data: Bytes) -> Result<(), Bytes> {
        let (here, rest) = data.split_at(self.room().min(data.len()));
        if rest.is_empty() {
            self.block.extend_from_slice(here);
        } else {
            let Some(cost) = self.charge_block(budget, rest.len()) else { return Err(data) };
            self.block.extend_from_slice(here);
            self.seal();
            self.block = Vec::with_capacity(cost);
            self.block_cost = cost;
            self.block.extend_from_slice(rest);
        }
        if self.room() == 0 {
            self.seal();
        }
        Ok(())
    }

    /// Pays for a new block with place for `len` bytes; its size.
    fn charge_block(&mut self, budget: &Budget, len: usize) -> Option<usize> {
        // As long as what was announced is still to come, the block is for that and costs nothing new. A block is never
        // just `len` long for want of budget: a queue of single bytes would be many times what it is charged for.
        let wish = if self.spare > 0 { self.spare } else { self.held.max(FIRST_BLOCK) };
        let allowed = self.most(budget).saturating_sub(self.held).max(self.spare);
        let size = |wish: u64| usize::try_from(wish.min(allowed)).unwrap_or(BLOCK).min(BLOCK).max(len);
        [size(wish), size(FIRST_BLOCK)].into_iter().find(|&size| self.charge(budget, size))
    }

    fn charge(&mut self, budget: &Budget, cost: usize) -> bool {
        let cost = cost as u64;
        let from_spare = cost.min(self.spare);
        let more = cost - from_spare;
        if more > 0 && !(self.fits(budget, more) && budget.take(more)) {
            return false;
        }
        self.spare -= from_spare;
        self.held += cost;
        true
    }

    /// Whether one body may have `more` bytes beside what it has.
    fn fits(&self, budget: &Budget, more: u64) -> bool {
        (self.held + self.spare).saturating_add(more) <= self.most(budget)
    }

    fn most(&self, budget: &Budget) -> u64 {
        self.most.min(budget.per_body())
    }

    /// What the block has place for, in bytes.
    fn room(&self) -> usize {
        self.block_cost - self.block.len()
    }

    /// Makes the block a piece, full or not.
    fn seal(&mut self) {
        if self.block_cost > 0 {
            let piece = Piece { data: std::mem::take(&mut self.block).into(), cost: self.block_cost };
            self.block_cost = 0;
            self.append(piece);
        }
    }

    fn append(&mut self, piece: Piece) {
        if self.first.data.is_empty() {
            self.first = piece;
        } else {
            self.rest.push_back(piece);
        }
    }

    /// Takes up to [`BLOCK`] bytes out. Budget goes back with the last of a piece, save what `promised` bytes that are
    /// still to come need.
    pub fn take(&mut self, budget: &Budget, promised: u64) -> Option<Bytes> {
        if self.first.data.is_empty() {
            self.seal();
        }
        if self.first.data.len() > BLOCK {
            return Some(self.first.data.split_to(BLOCK));
        }
        let next = self.rest.pop_front().unwrap_or_default();
        let piece = std::mem::replace(&mut self.first, next);
        let cost = piece.cost as u64;
        let keep = cost.min(promised.saturating_sub(self.spare + self.room() as u64));
        self.held -= cost;
        self.spare += keep;
        budget.give(cost - keep);
        Some(piece.data).filter(|data| !data.is_empty())
    }

    /// Reads up to [`BLOCK`] bytes and keeps them.
    pub fn read(&mut self) -> Option<Bytes> {
        loop {
            let (index, start) = self.at;
            let piece = if index == 0 { Some(&self.first) } else { self.rest.get(index - 1) };
            let Some(piece) = piece.filter(|piece| !piece.data.is_empty()) else { return self.read_block(start) };
            let end = piece.data.len().min(start + BLOCK);
            if start < end {
                self.at.1 = end;
                return Some(piece.data.slice(start..end));
            }
            self.at = (index + 1, 0);
        }
    }

    /// A copy of what the block has from `start` on: as a piece of its own it could not grow any more.
    fn read_block(&mut self, start: usize) -> Option<Bytes> {
        let end = self.block.len().min(start + BLOCK);
        let read = self.block.get(start..end).filter(|read| !read.is_empty())?;
        self.at.1 = end;
        Some(Bytes::copy_from_slice(read))
    }

    /// Reads from the start again.
    pub fn rewind(&mut self) {
        self.at = (0, 0);
    }

    /// Gives back what was taken for bytes that will not come here.
    pub fn unpromise(&mut self, budget: &Budget) {
        budget.give(std::mem::take(&mut self.spare));
    }

    /// Gives everything back.
    pub fn clear(&mut self, budget: &Budget) {
        budget.give(self.held + self.spare);
        *self = Self::default();
    }
}
