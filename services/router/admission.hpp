// How many sequences the router lets into the mesh. A ticket stands for the places of one request
// and gives them back when it is destroyed. Thread-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>

namespace fulgur::router {

class Admission {
 public:
  explicit Admission(std::size_t places_max);

  class Ticket {
   public:
    Ticket(Ticket&&) = default;
    Ticket& operator=(Ticket&&) = delete;
    ~Ticket();

   private:
    friend class Admission;
    Ticket(std::shared_ptr<std::atomic<std::size_t>> taken, std::size_t places)
        : taken_(std::move(taken)), places_(places) {}
    std::shared_ptr<std::atomic<std::size_t>> taken_;
    std::size_t places_;
  };

  /// Takes `places` or nothing.
  std::optional<Ticket> enter(std::size_t places);
  std::size_t taken() const { return taken_->load(); }
  std::size_t places_max() const { return places_max_; }

 private:
  std::size_t places_max_;
  std::shared_ptr<std::atomic<std::size_t>> taken_;
};

}  // namespace fulgur::router
