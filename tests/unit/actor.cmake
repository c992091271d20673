fulgur_test(actor_test SOURCES actor/reactor_test.cpp DEPENDS fulgur::actor)
fulgur_use_actor_pch(actor_test)
