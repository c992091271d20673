// The compiled half of Asio and Beast, once, instead of inline in every file that uses them.
#include <boost/asio/impl/src.hpp>
#include <boost/beast/src.hpp>
