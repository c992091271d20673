// Measures a tokenizer: fulgur-bench-tokenizer TOKENIZER_JSON [TEXT_FILE]. Prints the load time,
// encode and decode throughput on one core, and the cost of the worst single words.
#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "common/base/clock.hpp"
#include "common/text/tokenizer.hpp"

namespace {

using fulgur::RealClock;
using fulgur::text::Tokenizer;

constexpr int kRepeats = 5;

std::string read_text(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  return std::move(content).str();
}

/// Best of kRepeats, in MB (10^6 bytes) of text a second.
template <class Work>
double throughput(const std::string& text, Work work) {
  const RealClock clock;
  double best = 0;
  for (int i = 0; i < kRepeats; ++i) {
    const auto start = clock.now();
    work();
    const auto seconds = static_cast<double>(clock.now() - start) * 1e-9;
    best = std::max(best, static_cast<double>(text.size()) * 1e-6 / seconds);
  }
  return best;
}

void report(const Tokenizer& tokenizer, const std::string& name, const std::string& text) {
  const auto ids = tokenizer.encode(text);
  if (!ids) {
    fmt::print("{:<24} {}\n", name, ids.status().to_string());
    return;
  }
  const double encode = throughput(text, [&] { (void)tokenizer.encode(text); });
  const double decode = throughput(text, [&] { (void)tokenizer.decode(*ids); });
  fmt::print("{:<24} {:>10} bytes {:>9} tokens  encode {:8.2f} MB/s  decode {:8.2f} MB/s\n", name,
             text.size(), ids->size(), encode, decode);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: fulgur-bench-tokenizer TOKENIZER_JSON [TEXT_FILE]\n");
    return 2;
  }
  const RealClock clock;
  const auto start = clock.now();
  const auto tokenizer = Tokenizer::load(argv[1]);
  if (!tokenizer) {
    fmt::print(stderr, "{}\n", tokenizer.status().to_string());
    return 1;
  }
  fmt::print("load {:.3f} s, {} ids\n", static_cast<double>(clock.now() - start) * 1e-9,
             tokenizer->vocab_size());
  if (argc > 2) report(*tokenizer, argv[2], read_text(argv[2]));
  report(*tokenizer, "1 MB of one letter", std::string(1'000'000, 'a'));
  report(*tokenizer, "1 MB of spaces", std::string(1'000'000, ' '));
  return 0;
}
