#include "services/orchestrator/placement_layout.hpp"

#include <algorithm>

#include "common/base/assert.hpp"

namespace fulgur::orchestrator {

Change Change::reversed() const {
  Change back = *this;
  for (Edit& edit : back.edits) std::swap(edit.from, edit.to);
  return back;
}

Layout::Layout(const PlacementProblem& problem)
    : problem_(&problem),
      has_(problem.slots.size() * problem.shape.cells()),
      holders_(problem.shape.cells()),
      height_(problem.shape.cells()),
      time_(problem.shape.layers * problem.slots.size()),
      total_(problem.slots.size()),
      used_(problem.slots.size()) {}

std::uint32_t Layout::slowest(std::uint32_t layer) const {
  std::uint32_t slowest = 0;
  for (std::uint32_t slot = 1; slot < slots(); ++slot)
    if (time(layer, slot) > time(layer, slowest)) slowest = slot;
  return slowest;
}

bool Layout::holds_in_two_domains(std::uint32_t layer, std::uint32_t expert) const {
  const auto& all = holders(layer, expert);
  return std::any_of(all.begin(), all.end(), [&](std::uint32_t slot) {
    return problem_->slots[slot].domain != problem_->slots[all.front()].domain;
  });
}

void Layout::add(std::uint32_t slot, std::uint32_t layer, std::uint32_t expert) {
  FULGUR_ASSERT(!has(slot, layer, expert), "a replica twice on one worker");
  const std::size_t cell = problem_->cell(layer, expert);
  has_[slot * problem_->shape.cells() + cell] = 1;
  auto& all = holders_[cell];
  all.insert(std::lower_bound(all.begin(), all.end(), slot), slot);
  ++used_[slot];
  ++replicas_;
  missing_ += problem_->held[slot].contains(layer, expert) ? 0 : 1;
  changed(layer, expert);
}

void Layout::remove(std::uint32_t slot, std::uint32_t layer, std::uint32_t expert) {
  FULGUR_ASSERT(has(slot, layer, expert), "no such replica");
  const std::size_t cell = problem_->cell(layer, expert);
  has_[slot * problem_->shape.cells() + cell] = 0;
  auto& all = holders_[cell];
  all.erase(std::lower_bound(all.begin(), all.end(), slot));
  --used_[slot];
  --replicas_;
  missing_ -= problem_->held[slot].contains(layer, expert) ? 0 : 1;
  changed(layer, expert);
  retime(slot, layer);
}

void Layout::changed(std::uint32_t layer, std::uint32_t expert) {
  const std::size_t cell = problem_->cell(layer, expert);
  double speed = 0;
  for (const std::uint32_t slot : holders_[cell]) speed += problem_->slots[slot].speed;
  height_[cell] = speed > 0 ? problem_->load[cell] / speed : 0;
  for (const std::uint32_t slot : holders_[cell]) retime(slot, layer);
}

// Added up anew each time, so that a long search gathers no rounding error.
void Layout::retime(std::uint32_t slot, std::uint32_t layer) {
  double sum = 0;
  for (std::uint32_t expert = 0; expert < problem_->shape.experts; ++expert)
    if (has(slot, layer, expert)) sum += height(layer, expert);
  time_[std::size_t{layer} * used_.size() + slot] = sum;
  double total = 0;
  for (std::uint32_t each = 0; each < problem_->shape.layers; ++each) total += time(each, slot);
  total_[slot] = total;
}

void Layout::apply(const Change& change) {
  // Drops first: a slot that is full makes room for what it gets.
  for (std::uint32_t i = 0; i < change.count; ++i) {
    const Edit& edit = change.edits[i];
    if (edit.from != kNoSlot) remove(edit.from, edit.layer, edit.expert);
  }
  for (std::uint32_t i = 0; i < change.count; ++i) {
    const Edit& edit = change.edits[i];
    if (edit.to != kNoSlot) add(edit.to, edit.layer, edit.expert);
  }
}

bool Layout::allows(const Change& change) const {
  std::uint64_t replicas = replicas_;
  for (std::uint32_t i = 0; i < change.count; ++i) {
    const Edit& edit = change.edits[i];
    if (edit.from != kNoSlot && !has(edit.from, edit.layer, edit.expert)) return false;
    if (edit.to == kNoSlot) {
      if (count(edit.layer, edit.expert) <= problem_->floor) return false;
      --replicas;
    } else {
      if (has(edit.to, edit.layer, edit.expert)) return false;
      std::uint64_t after = used_[edit.to];
      for (std::uint32_t j = 0; j < change.count; ++j)
        after +=
            (change.edits[j].to == edit.to ? 1 : 0) - (change.edits[j].from == edit.to ? 1 : 0);
      if (after > problem_->slots[edit.to].limit && after > used_[edit.to]) return false;
    }
    if (edit.from == kNoSlot) ++replicas;
    if (problem_->spreads_domains() && !keeps_domains(edit)) return false;
  }
  return replicas <= std::max(problem_->budget, replicas_);
}

bool Layout::keeps_domains(const Edit& edit) const {
  const auto& slots = problem_->slots;
  const bool spread = holds_in_two_domains(edit.layer, edit.expert);
  if (edit.from == kNoSlot) {
    const auto& all = holders(edit.layer, edit.expert);
    return spread || all.empty() || slots[all.front()].domain != slots[edit.to].domain;
  }
  if (!spread) return true;
  std::uint32_t first = edit.to == kNoSlot ? kNoSlot : slots[edit.to].domain;
  for (const std::uint32_t slot : holders(edit.layer, edit.expert)) {
    if (slot == edit.from) continue;
    if (first == kNoSlot)
      first = slots[slot].domain;
    else if (slots[slot].domain != first)
      return true;
  }
  return count(edit.layer, edit.expert) == 2 && edit.to == kNoSlot;
}

int Layout::loads(const Change& change) const {
  int loads = 0;
  for (std::uint32_t i = 0; i < change.count; ++i) {
    const Edit& edit = change.edits[i];
    const auto missing = [&](std::uint32_t slot) {
      return slot != kNoSlot && !problem_->held[slot].contains(edit.layer, edit.expert) ? 1 : 0;
    };
    loads += missing(edit.to) - missing(edit.from);
  }
  return loads;
}

Balance Layout::balance(double layer_bound) const {
  double slowest = 0;
  double sum = 0;
  for (std::uint32_t layer = 0; layer < problem_->shape.layers; ++layer)
    slowest += layer_time(layer);
  for (const double load : problem_->load) sum += load;
  const double mean = sum / problem_->speed_sum;
  if (mean <= 0) return {1, 1, layer_bound};
  return {slowest / mean, *std::max_element(total_.begin(), total_.end()) / mean, layer_bound};
}

// ---------------------------------------------------------------- trial

Trial::Trial(const Layout& layout) : layout_(layout), marked_(std::size_t{2} * layout.slots()) {
  for (Side& side : sides_) side.delta.resize(layout.slots());
}

void Trial::bump(Side& side, std::uint32_t slot, double by) {
  auto& mark = marked_[(&side == &sides_[1] ? layout_.slots() : 0) + slot];
  if (mark == 0) {
    mark = 1;
    side.touched.push_back(slot);
  }
  side.delta[slot] += by;
}

void Trial::clear(Side& side) {
  for (const std::uint32_t slot : side.touched) {
    side.delta[slot] = 0;
    marked_[(&side == &sides_[1] ? layout_.slots() : 0) + slot] = 0;
  }
  side.touched.clear();
}

void Trial::run(const Change& change) {
  clear(sides_[0]);
  clear(sides_[1]);
  two_layers_ = change.count == 2 && change.edits[0].layer != change.edits[1].layer;
  const PlacementProblem& problem = layout_.problem();
  for (std::uint32_t i = 0; i < change.count; ++i) {
    const Edit& edit = change.edits[i];
    Side& side = sides_[two_layers_ ? i : 0];
    side.layer = edit.layer;
    const auto& holders = layout_.holders(edit.layer, edit.expert);
    double speed = 0;
    for (const std::uint32_t slot : holders)
      if (slot != edit.from) speed += problem.slots[slot].speed;
    if (edit.to != kNoSlot) speed += problem.slots[edit.to].speed;
    const double before = layout_.height(edit.layer, edit.expert);
    const double after =
        speed > 0 ? problem.load[problem.cell(edit.layer, edit.expert)] / speed : 0;
    const bool same = problem.equal_speeds && edit.from != kNoSlot && edit.to != kNoSlot;
    if (!same)
      for (const std::uint32_t slot : holders)
        if (slot != edit.from) bump(side, slot, after - before);
    if (edit.from != kNoSlot) bump(side, edit.from, -before);
    if (edit.to != kNoSlot) bump(side, edit.to, same ? before : after);
  }
}

double Trial::slowest_touched(std::uint32_t edit) const {
  const Side& side = side_of(edit);
  double slowest = 0;
  for (const std::uint32_t slot : side.touched)
    slowest = std::max(slowest, layout_.time(side.layer, slot) + side.delta[slot]);
  return slowest;
}

double Trial::layer_time(std::uint32_t edit) const {
  const Side& side = side_of(edit);
  double slowest = 0;
  for (std::uint32_t slot = 0; slot < layout_.slots(); ++slot)
    slowest = std::max(slowest, layout_.time(side.layer, slot) + side.delta[slot]);
  return slowest;
}

double Trial::slowest_total() const {
  double slowest = 0;
  for (const Side& side : sides_)
    for (const std::uint32_t slot : side.touched) slowest = std::max(slowest, total(slot));
  return slowest;
}

}  // namespace fulgur::orchestrator
