# SPDX-License-Identifier: MIT OR GPL-2.0
# One object of all in the static library that is reached from the entry points, for objtool to see it as it sees C. What else is
# in it stays its own: a kernel that has Rust itself has a `core` of its own, too.

entries := dd_panic dd_heard dd_arm dd_disarm dd_rearm dd_show dd_tell_last dd_freeze dd_crash_stopped dd_nmi

quiet_cmd_rustlib = RUSTLIB $@
      cmd_rustlib = $(LD) -r --gc-sections -e dd_panic $(addprefix -u ,$(entries)) -T $(src)/merge.lds -o $@ $(RUSTLIB) && \
		$(OBJCOPY) -g $(addprefix --keep-global-symbol=,$(entries)) $@ $(cmd_objtool)

$(obj)/rust.o: $(RUSTLIB) $(src)/merge.lds FORCE
	$(call if_changed,rustlib)
targets += rust.o
